#!/usr/bin/python3
"""Writes the tiny decoders of this directory and, beside each, golden.json with what they compute.

As make_golden.py, for GPT-2, Llama and OPT: random networks, their forward pass written out in float64
from the published definitions.

  /usr/bin/python3 tests/golden/make_decoder_golden.py
"""
import json
import math
import pathlib
import shutil

import torch

from make_golden import ACTIVATIONS, ROOT, VOCAB, Checkpoint, write_tokenizer, write_weights

HIDDEN, HEADS, LAYERS, POSITIONS = 32, 4, 3, 48


def add_norm(weights, name, width=HIDDEN, bias=True):
    weights.add(name + ".weight", width, mean=1.0)
    if bias:
        weights.add(name + ".bias", width)


def add_linear(weights, name, out, inner, bias=True):
    weights.add(name + ".weight", out, inner)
    if bias:
        weights.add(name + ".bias", out)


def linear(weights, name, x):
    y = x @ weights.get(name + ".weight").T
    return y + weights.get(name + ".bias") if name + ".bias" in weights.tensors else y


def layer_norm(weights, name, x, epsilon):
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return (centred / torch.sqrt(variance + epsilon) * weights.get(name + ".weight")
            + weights.get(name + ".bias"))


def rms_norm(weights, name, x, epsilon):
    return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + epsilon) * weights.get(name + ".weight")


def attend(q, k, v, scale):
    """q [heads, tokens, dim]; k and v may have fewer heads, each then serving its neighbours."""
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(1, 2) * scale
    future = torch.ones(scores.shape[1:]).triu(1).bool()
    probabilities = torch.softmax(scores.masked_fill(future, -math.inf), -1)
    return (probabilities @ v).transpose(0, 1).reshape(q.shape[1], -1)


def split(x, dim):
    return x.view(x.shape[0], -1, dim).transpose(0, 1)


class Gpt2:
    tokenizer = True

    def __init__(self, seed, dtypes, prefixed=True, tied=True, act="gelu_new", inner=None, by_layer=False,
                 buffers=False):
        self.tied, self.act, self.inner, self.by_layer = tied, act, inner, by_layer
        self.prefix = "transformer." if prefixed else ""
        w, p, wide = Checkpoint(seed, dtypes), self.prefix, inner or 4 * HIDDEN
        self.weights = w
        w.add(p + "wte.weight", VOCAB, HIDDEN)
        w.add(p + "wpe.weight", POSITIONS, HIDDEN)
        for i in range(LAYERS):
            at = f"{p}h.{i}."
            add_norm(w, at + "ln_1")
            add_norm(w, at + "ln_2")
            # Conv1D: [in, out].
            for name, out, rows in (("attn.c_attn", 3 * HIDDEN, HIDDEN), ("attn.c_proj", HIDDEN, HIDDEN),
                                    ("mlp.c_fc", wide, HIDDEN), ("mlp.c_proj", HIDDEN, wide)):
                w.add(at + name + ".weight", rows, out)
                w.add(at + name + ".bias", out)
            if buffers:
                w.tensors[at + "attn.bias"] = torch.ones(1, 1, POSITIONS, POSITIONS).tril()
                w.tensors[at + "attn.masked_bias"] = torch.tensor(-1e4)
        add_norm(w, p + "ln_f")
        if not tied:
            w.add("lm_head.weight", VOCAB, HIDDEN)

    def logits(self, ids):
        w, p, dim = self.weights, self.prefix, HIDDEN // HEADS
        conv = lambda name, x: x @ w.get(name + ".weight") + w.get(name + ".bias")
        h = w.get(p + "wte.weight")[ids] + w.get(p + "wpe.weight")[: len(ids)]
        for i in range(LAYERS):
            at = f"{p}h.{i}."
            q, k, v = conv(at + "attn.c_attn", layer_norm(w, at + "ln_1", h, 1e-5)).split(HIDDEN, -1)
            scale = 1 / math.sqrt(dim) / (i + 1 if self.by_layer else 1)
            context = attend(split(q, dim), split(k, dim), split(v, dim), scale)
            h = h + conv(at + "attn.c_proj", context)
            wide = ACTIVATIONS[self.act](conv(at + "mlp.c_fc", layer_norm(w, at + "ln_2", h, 1e-5)))
            h = h + conv(at + "mlp.c_proj", wide)
        h = layer_norm(w, p + "ln_f", h, 1e-5)
        return h @ w.get(p + "wte.weight" if self.tied else "lm_head.weight").T

    def config(self):
        return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB,
                "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS,
                "n_inner": self.inner, "activation_function": self.act, "layer_norm_epsilon": 1e-5,
                "scale_attn_by_inverse_layer_idx": self.by_layer, "tie_word_embeddings": self.tied,
                "bos_token_id": 0, "eos_token_id": 2}


class Llama:
    tokenizer = False
    WIDE, KV_HEADS = 44, 2

    def __init__(self, seed, dtypes, prefixed=True, tied=False, bias=False, head_dim=None, theta=10000.0,
                 scaling=None, parameters=False):
        self.tied, self.bias, self.theta, self.scaling = tied, bias, theta, scaling
        self.own_head_dim, self.parameters = head_dim, parameters
        self.dim = head_dim or HIDDEN // HEADS
        self.prefix = "model." if prefixed else ""
        w, p = Checkpoint(seed, dtypes), self.prefix
        self.weights = w
        w.add(p + "embed_tokens.weight", VOCAB, HIDDEN)
        for i in range(LAYERS):
            at = f"{p}layers.{i}."
            for name, out, inner in (("self_attn.q_proj", HEADS * self.dim, HIDDEN),
                                     ("self_attn.k_proj", self.KV_HEADS * self.dim, HIDDEN),
                                     ("self_attn.v_proj", self.KV_HEADS * self.dim, HIDDEN),
                                     ("self_attn.o_proj", HIDDEN, HEADS * self.dim),
                                     ("mlp.gate_proj", self.WIDE, HIDDEN), ("mlp.up_proj", self.WIDE, HIDDEN),
                                     ("mlp.down_proj", HIDDEN, self.WIDE)):
                add_linear(w, at + name, out, inner, bias)
            add_norm(w, at + "input_layernorm", bias=False)
            add_norm(w, at + "post_attention_layernorm", bias=False)
        add_norm(w, p + "norm", bias=False)
        if not tied:
            w.add("lm_head.weight", VOCAB, HIDDEN)

    def rotations(self):
        """Inverse frequencies by pair, and the factor on cos and sin."""
        dim, kind = self.dim, (self.scaling or {}).get("rope_type", (self.scaling or {}).get("type"))
        plain = 1.0 / self.theta ** (torch.arange(0, dim, 2).double() / dim)
        if kind is None:
            return plain, 1.0
        factor = self.scaling["factor"]
        if kind == "linear":
            return plain / factor, 1.0
        original = self.scaling["original_max_position_embeddings"]
        if kind == "llama3":
            low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
            result = []
            for frequency in plain.tolist():
                wavelength = 2 * math.pi / frequency
                if wavelength < original / high:
                    result.append(frequency)
                elif wavelength > original / low:
                    result.append(frequency / factor)
                else:
                    smooth = (original / wavelength - low) / (high - low)
                    result.append((1 - smooth) * frequency / factor + smooth * frequency)
            return torch.tensor(result).double(), 1.0
        assert kind == "yarn"
        dim_of = lambda turns: (dim * math.log(original / (turns * 2 * math.pi))) / (2 * math.log(self.theta))
        low = max(math.floor(dim_of(self.scaling.get("beta_fast", 32))), 0)
        high = min(math.ceil(dim_of(self.scaling.get("beta_slow", 1))), dim - 1)
        ramp = ((torch.arange(dim // 2).double() - low) / max(high - low, 0.001)).clamp(0, 1)
        keep = 1 - ramp
        return plain / factor * (1 - keep) + plain * keep, 0.1 * math.log(factor) + 1

    def rotate(self, x):
        frequencies, magnitude = self.rotations()
        angles = torch.outer(torch.arange(x.shape[1]).double(), frequencies)
        angles = torch.cat((angles, angles), -1)
        a, b = x.chunk(2, -1)
        return (x * angles.cos() + torch.cat((-b, a), -1) * angles.sin()) * magnitude

    def logits(self, ids):
        w, p = self.weights, self.prefix
        h = w.get(p + "embed_tokens.weight")[ids]
        for i in range(LAYERS):
            at = f"{p}layers.{i}."
            x = rms_norm(w, at + "input_layernorm", h, 1e-5)
            q, k, v = (split(linear(w, f"{at}self_attn.{n}_proj", x), self.dim) for n in "qkv")
            context = attend(self.rotate(q), self.rotate(k), v, 1 / math.sqrt(self.dim))
            h = h + linear(w, at + "self_attn.o_proj", context)
            x = rms_norm(w, at + "post_attention_layernorm", h, 1e-5)
            wide = ACTIVATIONS["silu"](linear(w, at + "mlp.gate_proj", x)) * linear(w, at + "mlp.up_proj", x)
            h = h + linear(w, at + "mlp.down_proj", wide)
        h = rms_norm(w, p + "norm", h, 1e-5)
        return h @ w.get(p + "embed_tokens.weight" if self.tied else "lm_head.weight").T

    def config(self):
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
                  "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                  "num_key_value_heads": self.KV_HEADS, "intermediate_size": self.WIDE,
                  "max_position_embeddings": POSITIONS, "hidden_act": "silu", "rms_norm_eps": 1e-5,
                  "attention_bias": self.bias, "mlp_bias": self.bias, "tie_word_embeddings": self.tied,
                  "bos_token_id": 0, "eos_token_id": [2, 1]}
        if self.own_head_dim:
            config["head_dim"] = self.own_head_dim
        if self.parameters:
            config["rope_parameters"] = {"rope_theta": self.theta} | self.scaling
        else:
            config |= {"rope_theta": self.theta, "rope_scaling": self.scaling}
        return config


class Opt:
    tokenizer = True
    WIDE = 40

    def __init__(self, seed, dtypes, prefix, pre_norm=True, narrow=HIDDEN, bias=True):
        self.prefix, self.pre_norm, self.narrow, self.bias = prefix, pre_norm, narrow, bias
        w, p = Checkpoint(seed, dtypes), prefix
        self.weights = w
        w.add(p + "embed_tokens.weight", VOCAB, narrow)
        w.add(p + "embed_positions.weight", POSITIONS + 2, HIDDEN)
        if narrow != HIDDEN:
            add_linear(w, p + "project_in", HIDDEN, narrow, False)
            add_linear(w, p + "project_out", narrow, HIDDEN, False)
        for i in range(LAYERS):
            at = f"{p}layers.{i}."
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                add_linear(w, at + "self_attn." + name, HIDDEN, HIDDEN, bias)
            add_linear(w, at + "fc1", self.WIDE, HIDDEN, bias)
            add_linear(w, at + "fc2", HIDDEN, self.WIDE, bias)
            add_norm(w, at + "self_attn_layer_norm")
            add_norm(w, at + "final_layer_norm")
        if pre_norm:
            add_norm(w, p + "final_layer_norm")

    def logits(self, ids):
        w, p, dim = self.weights, self.prefix, HIDDEN // HEADS
        norm = lambda name, x, here: layer_norm(w, name, x, 1e-5) if here else x
        h = w.get(p + "embed_tokens.weight")[ids]
        if self.narrow != HIDDEN:
            h = linear(w, p + "project_in", h)
        h = h + w.get(p + "embed_positions.weight")[2 : len(ids) + 2]
        for i in range(LAYERS):
            at = f"{p}layers.{i}."
            x = norm(at + "self_attn_layer_norm", h, self.pre_norm)
            q, k, v = (split(linear(w, f"{at}self_attn.{n}_proj", x), dim) for n in "qkv")
            h = h + linear(w, at + "self_attn.out_proj", attend(q * dim**-0.5, k, v, 1.0))
            h = norm(at + "self_attn_layer_norm", h, not self.pre_norm)
            x = norm(at + "final_layer_norm", h, self.pre_norm)
            h = h + linear(w, at + "fc2", torch.relu(linear(w, at + "fc1", x)))
            h = norm(at + "final_layer_norm", h, not self.pre_norm)
        if self.pre_norm:
            h = layer_norm(w, p + "final_layer_norm", h, 1e-5)
        if self.narrow != HIDDEN:
            h = linear(w, p + "project_out", h)
        return h @ w.get(p + "embed_tokens.weight").T

    def config(self):
        return {"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": VOCAB,
                "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
                "ffn_dim": self.WIDE, "max_position_embeddings": POSITIONS,
                "word_embed_proj_dim": self.narrow, "do_layer_norm_before": self.pre_norm,
                "enable_bias": self.bias, "activation_function": "relu", "bos_token_id": 2,
                "eos_token_id": 2, "pad_token_id": 1}


def write(name, model, shards=1):
    directory = ROOT / ("decoder-" + name)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(model.config(), indent=1) + "\n")
    write_weights(directory, model.weights.tensors, shards)
    if model.tokenizer:
        write_tokenizer(directory, "roberta")  # The same byte-level pairs.
        (directory / "tokenizer_config.json").write_text(json.dumps(
            {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}))
    random = torch.Generator().manual_seed(7)
    cases = []
    for length in (1, 5, 41):  # The last fills more than a page of the cache.
        ids = torch.randint(5, VOCAB, (length,), generator=random).tolist()
        logits = model.logits(ids).reshape(-1).tolist()
        cases.append({"ids": ids, "logits": [float(f"{x:.7g}") for x in logits]})
    (directory / "golden.json").write_text(
        json.dumps({"made_by": pathlib.Path(__file__).name, "cases": cases}) + "\n")


def main():
    f32, f16, bf16, mixed = ["F32"], ["F16"], ["BF16"], ["BF16", "F32", "F16"]
    write("gpt2", Gpt2(21, f32, inner=40, buffers=True))
    write("gpt2-options", Gpt2(22, f16, prefixed=False, tied=False, act="relu", by_layer=True))
    write("llama-tied", Llama(23, bf16, tied=True))
    write("llama3", Llama(24, f16, head_dim=12, bias=True, theta=500000.0, scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24}))
    write("llama-yarn", Llama(25, mixed, head_dim=16, theta=100.0, parameters=True, scaling={
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 0.5,
        "original_max_position_embeddings": 32}), shards=2)
    write("llama-linear", Llama(26, bf16, prefixed=False, scaling={"type": "linear", "factor": 2.5}))
    write("opt", Opt(27, f16, "model.decoder."))
    write("opt-350m", Opt(28, f32, "decoder.", pre_norm=False, narrow=20))
    write("opt-unbiased", Opt(29, bf16, "model.decoder.", bias=False))


if __name__ == "__main__":
    main()
