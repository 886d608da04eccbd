#!/usr/bin/env python3
"""Writes the SentencePiece models of this directory, and what SentencePiece's own programs make of
some texts (sentencepiece_expected.json). Needs Debian's package `sentencepiece`.
"""
import json
import os
import random
import shutil
import subprocess
import tempfile

import make_golden

HERE = os.path.dirname(os.path.abspath(__file__))
# Strings and what they become, as hexadecimal characters.
RULES = """FB01\t66 69
00BD\t31 2F 32
3000\t20
0009\t20
00A0\t20
200B\t
0041 030A\tC5
FDFA\t635 644 649 20 627 644 644 647 20 639 644 64A 647 20 648 633 644 645
"""
MODELS = {
    "bpe": ["--model_type=bpe", "--vocab_size=420", "--byte_fallback",
            "--normalization_rule_name=identity", "--remove_extra_whitespaces=false",
            "--split_digits", "--allow_whitespace_only_pieces",
            "--user_defined_symbols=<sep>,sea shell", "--control_symbols=<ctl>"],
    "unigram": ["--model_type=unigram", "--vocab_size=100", "--user_defined_symbols=<sep>,the",
                "--control_symbols=<ctl>", "--normalization_rule_tsv=rules"],
}
FRAGMENTS = [
    "hello", "World", "the", "They're", " the theatre", "same", "shown", "sea shell", " sea shell",
    "<sep>", "<ctl>", "caf\u00e9", "\u4e2d\u6587", "\U0001F999", "A\u030a", "A\u030a\u0301", "\ufb01lm",
    "\u00bd", "\u3000", "\t", "\u00a0", "\u200b", "\ufdfa", "\u2581", "1999", " ", "  ", "<0x41>", ".",
    ", ", "zzz", "\u0301", "..."]


def texts(seed):
    choose = random.Random(seed)
    yield from FRAGMENTS
    for _ in range(150):
        yield "".join(choose.choice(FRAGMENTS) + choose.choice(["", " "])
                      for _ in range(choose.randrange(1, 9)))


def run(program, lines):
    result = subprocess.run(program, input="\n".join(lines) + "\n", text=True, encoding="utf-8",
                            check=True, stdout=subprocess.PIPE)
    return result.stdout.removesuffix("\n").split("\n")


def main():
    choose = random.Random(1)
    words = make_golden.TEXT.split()
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus, rules = os.path.join(scratch, "corpus"), os.path.join(scratch, "rules")
        with open(corpus, "w", encoding="utf-8") as f:
            for _ in range(400):
                f.write(" ".join(choose.choices(words, k=12)) + "\n")
        with open(rules, "w", encoding="utf-8") as f:
            f.write(RULES)
        for name, options in MODELS.items():
            directory = os.path.join(HERE, "sentencepiece_" + name)
            os.makedirs(directory, exist_ok=True)
            # The model remembers the names of files: here, relative ones.
            subprocess.run(["spm_train", "--input=corpus", "--minloglevel=2", "--num_threads=1",
                            "--model_prefix=tokenizer", *options], check=True, cwd=scratch)
            model = os.path.join(directory, "tokenizer.model")
            shutil.copyfile(os.path.join(scratch, "tokenizer.model"), model)
            arguments = ["--model=" + model]
            lines = list(texts(name))
            ids = run(["spm_encode", "--output_format=id", *arguments], lines)
            decoded = run(["spm_decode", "--input_format=id", *arguments], ids)
            for text, numbers, back in zip(lines, ids, decoded, strict=True):
                cases.append(dict(model=name, text=text, decoded=back,
                                  ids=[int(n) for n in numbers.split()]))
    with open(os.path.join(HERE, "sentencepiece_expected.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
