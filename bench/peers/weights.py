"""The weights of the checkpoints that random_checkpoint writes, by name, as numpy arrays."""
import json
import pathlib

import numpy


def read(directory):
    data = numpy.memmap(pathlib.Path(directory) / "model.safetensors", dtype=numpy.uint8, mode="r")
    length = int(data[:8].view("<u8")[0])
    header = json.loads(bytes(data[8:8 + length]))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = numpy.frombuffer(data[begin:end], dtype="<f4")  # A copy is made where it is used.
        tensors[name.removeprefix("bert.")] = values.reshape(entry["shape"])
    return tensors
