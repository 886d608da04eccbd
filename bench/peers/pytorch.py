"""Times PyTorch: pytorch.py JOB.json. Needs numpy and torch.

JOB: {threads, seconds, encoder, decoder (checkpoints), cases: [name, ...]}. Prints a line {"name", "ms": [...]} for
each case. Float products are F.linear, those of int8 PyTorch's dynamic quantization; there is no attention mask.
"""
import json
import sys
import time

import numpy
import torch
from torch import nn
from torch.nn import functional as F

import cases
import weights

LAYERS, HEADS, WIDTH = 12, 12, 768


def linear(weight, bias=None):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = torch.tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer


def norm(w, name, epsilon):
    layer = nn.LayerNorm(WIDTH, eps=epsilon)
    layer.weight.data, layer.bias.data = torch.tensor(w[name + ".weight"]), torch.tensor(w[name + ".bias"])
    return layer


def table(w, name):
    return nn.Embedding.from_pretrained(torch.tensor(w[name + ".weight"]))


def by_head(x):
    return x.view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)


def attend(query, key, value, causal):
    """[sequences, heads, tokens, size], of fewer queries than keys perhaps."""
    scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
    if causal and query.shape[2] > 1:
        late = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).triu(key.shape[2] - query.shape[2] + 1)
        scores = scores.masked_fill(late, float("-inf"))
    context = scores.softmax(3) @ value
    return context.transpose(1, 2).reshape(query.shape[0], query.shape[2], -1)


class Layer(nn.Module):
    """Of both models: the inner names are those of their roles."""

    def __init__(self, query_key_value, out, first, second, norms):
        super().__init__()
        self.query_key_value, self.out, self.first, self.second = query_key_value, out, first, second
        self.norm_1, self.norm_2 = norms

    def encode(self, h):
        query, key, value = (by_head(x) for x in self.query_key_value(h).chunk(3, 2))
        h = self.norm_1(h + self.out(attend(query, key, value, False)))
        return self.norm_2(h + self.second(F.gelu(self.first(h))))

    def decode(self, x, past):
        query, key, value = (by_head(part) for part in self.query_key_value(self.norm_1(x)).chunk(3, 2))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        x = x + self.out(attend(query, key, value, True))
        return x + self.second(F.gelu(self.first(self.norm_2(x)), approximate="tanh"))


class Encoder(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.words, self.positions, self.types = (
            table(w, f"embeddings.{name}_embeddings") for name in ("word", "position", "token_type"))
        self.norm = norm(w, "embeddings.LayerNorm", 1e-12)
        self.layers = nn.ModuleList()
        for i in range(LAYERS):
            p = f"encoder.layer.{i}."

            def part(name):
                return linear(w[p + name + ".weight"], w[p + name + ".bias"])

            parts = [p + f"attention.self.{name}" for name in ("query", "key", "value")]
            self.layers.append(Layer(
                linear(*(numpy.concatenate([w[name + end] for name in parts]) for end in (".weight", ".bias"))),
                part("attention.output.dense"), part("intermediate.dense"), part("output.dense"),
                [norm(w, p + name, 1e-12) for name in ("attention.output.LayerNorm", "output.LayerNorm")]))

    def forward(self, sequences, tokens):
        ids = ((1000 + 7919 * torch.arange(tokens)) % 30522).repeat(sequences, 1)
        h = self.words(ids) + self.positions(torch.arange(tokens)) + self.types(torch.zeros_like(ids))
        h = self.norm(h)
        for layer in self.layers:
            h = layer.encode(h)
        return h.mean(1)


class Decoder(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.words, self.positions = table(w, "wte"), table(w, "wpe")
        self.layers = nn.ModuleList()
        for i in range(LAYERS):
            p = f"h.{i}."

            def part(name):
                return linear(w[p + name + ".weight"].T.copy(), w[p + name + ".bias"])

            self.layers.append(Layer(part("attn.c_attn"), part("attn.c_proj"), part("mlp.c_fc"), part("mlp.c_proj"),
                                     [norm(w, p + name, 1e-5) for name in ("ln_1", "ln_2")]))
        self.norm = norm(w, "ln_f", 1e-5)
        self.head = linear(w["wte.weight"])

    def forward(self, tokens, pasts):
        past = pasts[0][0].shape[2] if pasts else 0
        ids = (1 + 7919 * torch.arange(tokens)) % 50257
        x = (self.words(ids) + self.positions(torch.arange(past, past + tokens)))[None]
        for i, layer in enumerate(self.layers):
            x = layer.decode(x, pasts[i] if pasts else None)
        return self.head(self.norm(x[:, -1:]))


def converted(model, precision):
    if precision == "bf16":
        return model.bfloat16()
    if precision == "int8":
        engines = torch.backends.quantized.supported_engines
        torch.backends.quantized.engine = next(e for e in ("fbgemm", "onednn", "qnnpack") if e in engines)
        return torch.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return model


def main():
    job = json.load(open(sys.argv[1]))
    torch.set_num_threads(job["threads"])
    torch.set_grad_enabled(False)
    models = {}
    for name in job["cases"]:
        kind, precision = ("encoder" if name.startswith("Encoder") else "decoder"), name.rpartition("/")[2]
        try:
            if (kind, precision) not in models:
                models.clear()
                w = weights.read(job[kind])
                models[kind, precision] = converted((Encoder if kind == "encoder" else Decoder)(w).eval(), precision)
            model = models[kind, precision]
            if kind == "encoder":
                batches = cases.batches_of(name)
                runs = [lambda batch=batch: model(*batch) for batch in batches]
            else:
                pasts = []
                if name.startswith("Decode"):
                    shape = (1, HEADS, cases.PROMPT, WIDTH // HEADS)
                    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
                    pasts = [(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)) for _ in range(LAYERS)]
                tokens = 1 if pasts else cases.PROMPT
                runs = [lambda: model(tokens, pasts)]
            if len(runs) == 1:
                runs[0]()  # A warm-up; many batches warm each other.
            ms, begin = [], time.perf_counter()
            while len(ms) < 3 or (time.perf_counter() - begin < job["seconds"] and len(ms) < 50):
                start = time.perf_counter()
                for run in runs:
                    run()
                ms.append(1e3 * (time.perf_counter() - start))
                if len(runs) > 1:
                    break
            print(json.dumps({"name": name, "ms": ms}), flush=True)
        except Exception as error:  # What this build of PyTorch can't do is a result too.
            print(json.dumps({"name": name, "error": str(error).splitlines()[0]}), flush=True)


main()
