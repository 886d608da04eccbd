"""Writes a checkpoint as a model for ONNX Runtime, of the operators that its own optimizer fuses to: its best case.

  onnx_models.py encoder|decoder CHECKPOINT f32|int8 OUT.onnx

Of int8 the weights have 7 bits and a scale for each column: on processors without VNNI ONNX Runtime adds pairs of
products in 16 bits, which full 8 bits overflow. Needs numpy and onnx.
"""
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

import weights

LAYERS, HEADS, WIDTH = 12, 12, 768
LIMIT = 63


class Graph:
    def __init__(self, int8):
        self.int8 = int8
        self.nodes, self.constants, self.count = [], [], 0

    def add(self, operator, inputs, outputs=1, domain="", **attributes):
        self.count += 1
        names = [f"v{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def fused(self, operator, inputs, outputs=1, **attributes):
        return self.add(operator, inputs, outputs, domain="com.microsoft", **attributes)

    def constant(self, array):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(numpy.ascontiguousarray(array), name))
        return name

    def quantized(self, weight):
        """A weight [in, out] as integers, their scales and their zero."""
        scale = numpy.maximum(numpy.abs(weight).max(axis=0), 1e-9) / LIMIT
        integers = numpy.rint(weight / scale).astype(numpy.int8)
        return (self.constant(integers), self.constant(scale.astype(numpy.float32)),
                self.constant(numpy.zeros(scale.shape, numpy.int8)))

    def product(self, x, weight):
        if not self.int8:
            return self.add("MatMul", [x, self.constant(weight)])
        integers, scale, zero = self.quantized(weight)
        return self.fused("DynamicQuantizeMatMul", [x, integers, scale, zero])

    def attention(self, x, weight, bias, past="", **attributes):
        """Q, K and V of `weight` [width, 3 * width], and the attention over them."""
        outputs = 2 if past else 1
        if not self.int8:
            inputs = [x, self.constant(weight), self.constant(bias), "", past]
            result = self.fused("Attention", inputs if past else inputs[:3], outputs, num_heads=HEADS, **attributes)
        else:
            integers, scale, zero = self.quantized(weight)
            quantized, x_scale, x_zero = self.add("DynamicQuantizeLinear", [x], 3)
            inputs = [quantized, integers, self.constant(bias), x_scale, scale, "", x_zero, zero, past]
            result = self.fused("QAttention", inputs if past else inputs[:8], outputs, num_heads=HEADS, **attributes)
        return result[0] if past else result

    def write(self, inputs, output, path):
        graph = helper.make_graph(self.nodes, "model", inputs, [output], self.constants)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def encoder(w, int8, path):
    g = Graph(int8)

    def norm(name):
        return [g.constant(w[name + ".weight"]), g.constant(w[name + ".bias"])]

    tables = [g.constant(w[f"embeddings.{t}_embeddings.weight"]) for t in ("word", "position", "token_type")]
    h = g.fused("EmbedLayerNormalization", ["ids", "types", *tables, *norm("embeddings.LayerNorm")], 2,
                epsilon=1e-12)[0]
    for i in range(LAYERS):
        p = f"encoder.layer.{i}."
        parts = [p + f"attention.self.{part}" for part in ("query", "key", "value")]
        context = g.attention(h, numpy.concatenate([w[part + ".weight"].T for part in parts], axis=1),
                              numpy.concatenate([w[part + ".bias"] for part in parts]))

        def close(x, skip, linear, norm_name):
            return g.fused("SkipLayerNormalization", [
                g.product(x, w[p + linear + ".weight"].T), skip, *norm(p + norm_name),
                g.constant(w[p + linear + ".bias"])], epsilon=1e-12)

        h = close(context, h, "attention.output.dense", "attention.output.LayerNorm")
        inner = g.fused("BiasGelu", [g.product(h, w[p + "intermediate.dense.weight"].T),
                                     g.constant(w[p + "intermediate.dense.bias"])])
        h = close(inner, h, "output.dense", "output.LayerNorm")
    g.nodes.append(helper.make_node("ReduceMean", [h], ["result"], axes=[1], keepdims=0))
    g.write([helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "tokens"]) for name in ("ids", "types")],
            helper.make_tensor_value_info("result", TensorProto.FLOAT, ["batch", WIDTH]), path)


def decoder(w, int8, path):
    g = Graph(int8)

    def norm(name):
        return [g.constant(w[name + ".weight"]), g.constant(w[name + ".bias"])]

    x = g.add("Add", [g.add("Gather", [g.constant(w["wte.weight"]), "ids"]),
                      g.add("Gather", [g.constant(w["wpe.weight"]), "positions"])])
    h = g.add("LayerNormalization", [x, *norm("h.0.ln_1")], epsilon=1e-5)
    for i in range(LAYERS):
        p = f"h.{i}."

        def close(product, skip, bias, norm_name):
            """The sum and its norm."""
            result = g.fused("SkipLayerNormalization",
                             [product, skip, *norm(norm_name), g.constant(w[bias])], 4, epsilon=1e-5)
            return result[3], result[0]

        context = g.attention(h, w[p + "attn.c_attn.weight"], w[p + "attn.c_attn.bias"], past=f"past_{i}",
                              unidirectional=1)
        x, h = close(g.product(context, w[p + "attn.c_proj.weight"]), x, p + "attn.c_proj.bias", p + "ln_2")
        inner = g.fused("FastGelu", [g.product(h, w[p + "mlp.c_fc.weight"]), g.constant(w[p + "mlp.c_fc.bias"])])
        x, h = close(g.product(inner, w[p + "mlp.c_proj.weight"]), x, p + "mlp.c_proj.bias",
                     f"h.{i + 1}.ln_1" if i + 1 < LAYERS else "ln_f")
    last = g.add("Gather", [h, g.constant(numpy.array([-1]))], axis=1)
    g.nodes.append(helper.make_node("Identity", [g.product(last, w["wte.weight"].T)], ["result"]))
    pasts = [helper.make_tensor_value_info(f"past_{i}", TensorProto.FLOAT, [2, 1, HEADS, "past", WIDTH // HEADS])
             for i in range(LAYERS)]
    g.write([helper.make_tensor_value_info(name, TensorProto.INT32, [1, "tokens"]) for name in ("ids", "positions")] +
            pasts, helper.make_tensor_value_info("result", TensorProto.FLOAT, [1, 1, "vocabulary"]), path)


if __name__ == "__main__":
    kind, checkpoint, precision, out = sys.argv[1:]
    {"encoder": encoder, "decoder": decoder}[kind](weights.read(checkpoint), precision == "int8", out)
