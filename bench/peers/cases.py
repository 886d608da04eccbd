"""The cases that peers are measured in, by the names of encoder_bench and generation_bench."""
import pathlib
import re

BENCH = pathlib.Path(__file__).resolve().parent.parent
SHAPES = [(1, 128), (8, 128), (1, 384), (4, 384), (1, 512)]  # Of an encoder: sequences, tokens.
PROMPT = 512  # Tokens that a decoder reads, and then has behind it at each step.
PADDED_BATCH = 8
PRECISIONS = ["f32", "bf16", "int8"]


def mixed_batches():
    """Requests of mixed lengths as a peer takes them: in batches of eight, each padded to its longest."""
    text = re.sub("//.*", "", (BENCH / "mixed_lengths.inc").read_text())
    lengths = [int(number) for number in re.findall(r"\d+", text)]
    return [(PADDED_BATCH, max(lengths[i:i + PADDED_BATCH])) for i in range(0, len(lengths), PADDED_BATCH)]


def batches_of(case):
    """Of an encoder's case: [(sequences, tokens)], run one after the other."""
    if case.startswith("EncoderMixed/"):
        return mixed_batches()
    match = re.match(r"Encoder(\d+)x(\d+)/", case)
    return [(int(match[1]), int(match[2]))]


def tokens_of(case):
    """Tokens that one run of the case answers, padding not counted; a decode step makes one."""
    if case.startswith("Decode"):
        return 1
    if case.startswith("Prefill"):
        return PROMPT
    if case.startswith("EncoderMixed/"):
        text = re.sub("//.*", "", (BENCH / "mixed_lengths.inc").read_text())
        return sum(int(number) for number in re.findall(r"\d+", text))
    return sum(sequences * tokens for sequences, tokens in batches_of(case))


def all_cases():
    for precision in PRECISIONS:
        for sequences, tokens in SHAPES:
            yield f"Encoder{sequences}x{tokens}/{precision}"
        yield f"EncoderMixed/{precision}"
        yield f"Prefill{PROMPT}/{precision}"
        yield f"Decode1x{PROMPT}/{precision}"
