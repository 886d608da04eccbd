#!/usr/bin/python3
"""Writes the tiny checkpoints of this directory and, beside each, golden.json with what they compute.

Needs Debian's python3-torch (1.13 or later); deterministic. The networks are random. Their forward pass
is written out here, in float64, from the published definitions of BERT, RoBERTa and DistilBERT: it
shares nothing with the C++ code that is tested against it.

  /usr/bin/python3 tests/golden/make_golden.py
"""
import json
import math
import pathlib
import shutil
import struct

import torch
import torch.nn.functional as F

HIDDEN, HEADS, LAYERS, WIDE, VOCAB, POSITIONS = 32, 4, 2, 48, 64, 40
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ROOT = pathlib.Path(__file__).parent

ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
}


def softmax_attention(q, k, v):
    """Of [heads, tokens, dim]."""
    return torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v


def flow_attention(q, k, v, causal=False):
    """Flowformer (ICML 2022): its flows as sums over tokens, in its causal form over those so far."""
    eps, tokens = 1e-6, q.shape[1]
    q, k = torch.sigmoid(q), torch.sigmoid(k)
    seen = torch.arange(1, tokens + 1).double() if causal else torch.ones(tokens).double()
    total = (lambda x: x.cumsum(1)) if causal else (lambda x: x.sum(1, keepdim=True))
    flow = lambda a, b: ((a + eps) * (total(b) + eps)).sum(-1)
    incoming, outgoing = seen / flow(q, k), seen / flow(k, q)
    sinks = flow(q, k * outgoing[..., None]) / seen
    sources = (flow(k, q * incoming[..., None]) / seen).clamp(-1, 1).exp()
    competition = sources / total(sources) * (seen if causal else tokens)
    capacity = q @ k.transpose(1, 2)
    if causal:
        capacity = capacity.tril()
    allocation = torch.sigmoid(sinks) * incoming / seen
    return allocation[..., None] * (capacity @ (competition[..., None] * v))


ATTENTIONS = {"softmax": softmax_attention, "flow": flow_attention,
              "flow_causal": lambda q, k, v: flow_attention(q, k, v, causal=True)}


class Checkpoint:
    """Random tensors by name, rounded to the type they are stored in."""

    def __init__(self, seed, dtypes):
        self.random = torch.Generator().manual_seed(seed)
        self.dtypes = dtypes  # Used in turn.
        self.tensors = {}

    def add(self, name, *shape, mean=0.0, std=0.2):
        values = torch.randn(*shape, generator=self.random, dtype=torch.float64) * std + mean
        dtype = self.dtypes[len(self.tensors) % len(self.dtypes)]
        self.tensors[name] = values.to(DTYPES[dtype])

    def linear(self, name, out, inner):
        self.add(name + ".weight", out, inner)
        self.add(name + ".bias", out)

    def norm(self, name, legacy=False):
        self.add(name + (".gamma" if legacy else ".weight"), HIDDEN, mean=1.0)
        self.add(name + (".beta" if legacy else ".bias"), HIDDEN)

    def get(self, *names):
        for name in names:
            if name in self.tensors:
                return self.tensors[name].double()
        raise KeyError(names)


def write_safetensors(path, tensors):
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        dtype = next(k for k, v in DTYPES.items() if v == tensor.dtype)
        raw = tensor if dtype == "F32" else tensor.view(torch.int16)
        blob = raw.contiguous().numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_weights(directory, tensors, shards):
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return
    names = list(tensors)
    weight_map = {}
    for i in range(shards):
        shard = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        write_safetensors(directory / shard, part)
        weight_map.update({name: shard for name in part})
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}))


# ---- The three families: modules by role. ----

BERT = dict(
    layer="encoder.layer.{}.", query="attention.self.query", key="attention.self.key",
    value="attention.self.value", attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm", wide="intermediate.dense", output="output.dense",
    output_norm="output.LayerNorm")
DISTIL = dict(
    layer="transformer.layer.{}.", query="attention.q_lin", key="attention.k_lin",
    value="attention.v_lin", attention_output="attention.out_lin", attention_norm="sa_layer_norm",
    wide="ffn.lin1", output="ffn.lin2", output_norm="output_layer_norm")


class Model:
    def __init__(self, family, task, seed, dtypes, act="gelu", prefixed=True, legacy=False, labels=3,
                 attention="softmax"):
        self.family, self.task, self.act, self.labels = family, task, act, labels
        self.attention = attention
        self.names = DISTIL if family == "distilbert" else BERT
        self.types = {"bert": 2, "roberta": 1, "distilbert": 0}[family]
        self.pad = 1 if family == "roberta" else 0
        self.epsilon = 1e-5 if family == "roberta" else 1e-12
        self.prefix = family + "." if prefixed else ""
        self.weights = Checkpoint(seed, dtypes)
        w, p = self.weights, self.prefix
        w.add(p + "embeddings.word_embeddings.weight", VOCAB, HIDDEN)
        w.add(p + "embeddings.position_embeddings.weight", POSITIONS, HIDDEN)
        if self.types:
            w.add(p + "embeddings.token_type_embeddings.weight", self.types, HIDDEN)
        w.norm(p + "embeddings.LayerNorm", legacy)
        for i in range(LAYERS):
            at = p + self.names["layer"].format(i)
            for part in ("query", "key", "value", "attention_output"):
                w.linear(at + self.names[part], HIDDEN, HIDDEN)
            w.norm(at + self.names["attention_norm"], legacy)
            w.linear(at + self.names["wide"], WIDE, HIDDEN)
            w.linear(at + self.names["output"], HIDDEN, WIDE)
            w.norm(at + self.names["output_norm"], legacy)
        if task == "sequence":
            dense, out = {"bert": (p + "pooler.dense", "classifier"),
                          "roberta": ("classifier.dense", "classifier.out_proj"),
                          "distilbert": ("pre_classifier", "classifier")}[family]
            w.linear(dense, HIDDEN, HIDDEN)
            w.linear(out, labels, HIDDEN)
            self.head = (dense, out)
        elif task == "token":
            w.linear("classifier", labels, HIDDEN)
        elif task == "answer":
            w.linear("qa_outputs", 2, HIDDEN)
        elif task == "masked":
            w.linear("lm_head.dense", HIDDEN, HIDDEN)  # Present in such files, not used.

    def linear(self, name, x):
        return x @ self.weights.get(name + ".weight").T + self.weights.get(name + ".bias")

    def norm(self, name, x):
        gamma = self.weights.get(name + ".weight", name + ".gamma")
        beta = self.weights.get(name + ".bias", name + ".beta")
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + self.epsilon) * gamma + beta

    def positions(self, ids):
        if self.family != "roberta":
            return list(range(len(ids)))
        result, count = [], 0
        for i in ids:
            count += i != self.pad
            result.append(self.pad + count if i != self.pad else self.pad)
        return result

    def hidden_states(self, ids, types):
        """Of one sequence: after the embeddings and after each layer."""
        w, p, n = self.weights, self.prefix, self.names
        h = w.get(p + "embeddings.word_embeddings.weight")[ids]
        h = h + w.get(p + "embeddings.position_embeddings.weight")[self.positions(ids)]
        if self.types:
            h = h + w.get(p + "embeddings.token_type_embeddings.weight")[types]
        h = self.norm(p + "embeddings.LayerNorm", h)
        states = [h]
        split = lambda x: x.view(len(ids), HEADS, HIDDEN // HEADS).transpose(0, 1)
        for i in range(LAYERS):
            at = p + n["layer"].format(i)
            q, k, v = (split(self.linear(at + n[part], h)) for part in ("query", "key", "value"))
            context = ATTENTIONS[self.attention](q, k, v).transpose(0, 1).reshape(len(ids), HIDDEN)
            h = self.norm(at + n["attention_norm"], h + self.linear(at + n["attention_output"], context))
            wide = ACTIVATIONS[self.act](self.linear(at + n["wide"], h))
            h = self.norm(at + n["output_norm"], h + self.linear(at + n["output"], wide))
            states.append(h)
        return states

    def logits(self, h):
        if self.task == "sequence":
            dense = self.linear(self.head[0], h[:1])
            dense = torch.relu(dense) if self.family == "distilbert" else torch.tanh(dense)
            return self.linear(self.head[1], dense)
        if self.task == "token":
            return self.linear("classifier", h)
        if self.task == "answer":
            return self.linear("qa_outputs", h)
        return None

    def config(self):
        kinds = {"plain": "Model", "masked": "ForMaskedLM", "sequence": "ForSequenceClassification",
                 "token": "ForTokenClassification", "answer": "ForQuestionAnswering"}
        stem = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}[self.family]
        config = {"architectures": [stem + kinds[self.task]], "model_type": self.family,
                  "vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "pad_token_id": self.pad}
        if self.family == "distilbert":
            config |= {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": WIDE,
                       "activation": self.act}
        else:
            config |= {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                       "intermediate_size": WIDE, "hidden_act": self.act, "layer_norm_eps": self.epsilon,
                       "type_vocab_size": self.types}
        if self.attention != "softmax":
            config["attention_type"] = self.attention
        if self.task in ("sequence", "token"):
            config["id2label"] = {str(i): f"class{i}" for i in range(self.labels)}
        return config


def write_tokenizer(directory, family):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
    if family == "roberta":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] + list(letters)
        tokens += ["\u0120", "th", "the", "in", "\u0120a", "er", "on", "an", "at", "ou", "is", "it",
                   "or", "en", "ar", "re", "to", "st", "he"]
        (directory / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
        merges = ["t h", "th e", "i n", "\u0120 a", "e r", "o n", "a n", "a t", "o u", "i s", "i t",
                  "o r", "e n", "a r", "r e", "t o", "s t", "h e"]
        (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    else:
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list(letters)
        tokens += ["##" + c for c in "aeioustnrlhd"] + ["the", "and", "good", "bad", "film", "not", "##ing"]
        (directory / "vocab.txt").write_text("\n".join(tokens) + "\n")
    assert len(tokens) == VOCAB, len(tokens)


def numbers(tensor):
    return [float(f"{x:.8g}") for x in tensor.reshape(-1).tolist()]


def cases_of(model, seed):
    random = torch.Generator().manual_seed(seed)
    longest = POSITIONS - (model.pad + 1 if model.family == "roberta" else 0)
    cases = []
    for length in (1, 2, 7, 19, longest):
        ids = torch.randint(5, VOCAB, (length,), generator=random).tolist()
        ids[0] = 0 if model.family == "roberta" else 2
        if length == 19:
            ids[-3:] = [model.pad] * 3  # Padding that a caller left in.
        types = [0] * length
        if model.family == "bert" and length > 2:
            types = [0] * (length // 2) + [1] * (length - length // 2)
        states = model.hidden_states(ids, types)
        mean = states[-1].mean(0)
        case = {"ids": ids, "type_ids": types, "cls": numbers(states[-1][0]), "mean": numbers(mean),
                "mean_normalized": numbers(mean / mean.norm())}
        if length == 7:
            case["hidden_states"] = [numbers(state) for state in states]
        logits = model.logits(states[-1])
        if logits is not None:
            case["logits"] = numbers(logits)
        cases.append(case)
    return cases


def write(name, model, shards=1, modules=False):
    directory = ROOT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(model.config(), indent=1) + "\n")
    write_weights(directory, model.weights.tensors, shards)
    write_tokenizer(directory, model.family)
    if modules:
        kind = "sentence_transformers.models."
        (directory / "modules.json").write_text(json.dumps([
            {"idx": 0, "name": "0", "path": "", "type": kind + "Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": kind + "Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": kind + "Normalize"}]))
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling" / "config.json").write_text(json.dumps({
            "word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False}))
        (directory / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    golden = {"made_by": "make_golden.py", "cases": cases_of(model, seed=7)}
    (directory / "golden.json").write_text(json.dumps(golden) + "\n")


def main():
    f32, f16, bf16, mixed = ["F32"], ["F16"], ["BF16"], ["BF16", "F32", "F16"]
    write("bert-plain", Model("bert", "plain", 1, f16, prefixed=False))
    write("bert-sequence", Model("bert", "sequence", 2, f16, act="gelu_new", legacy=True))
    write("bert-token", Model("bert", "token", 3, bf16), shards=2)
    write("bert-answer", Model("bert", "answer", 4, mixed, act="relu"))
    write("roberta-plain", Model("roberta", "plain", 5, bf16, prefixed=False))
    write("roberta-masked", Model("roberta", "masked", 6, f16))
    write("roberta-sequence", Model("roberta", "sequence", 7, f32))
    write("roberta-token", Model("roberta", "token", 8, bf16, act="silu"))
    write("roberta-answer", Model("roberta", "answer", 9, f16))
    write("distilbert-plain", Model("distilbert", "plain", 10, f16, prefixed=False))
    write("distilbert-sequence", Model("distilbert", "sequence", 11, bf16, labels=1))
    write("distilbert-token", Model("distilbert", "token", 12, f16))
    write("distilbert-answer", Model("distilbert", "answer", 13, mixed, act="relu"))
    write("sentence-mean", Model("bert", "plain", 14, bf16, prefixed=False), modules=True)
    write("bert-flow", Model("bert", "answer", 15, f16, act="relu", attention="flow"))
    write("distilbert-flow-causal", Model("distilbert", "token", 16, bf16, attention="flow_causal"))


if __name__ == "__main__":
    main()
