#!/usr/bin/env python3
"""Writes the tokenizer.json files of this directory: small vocabularies, made from the text below.

make_golden.js then computes what Hugging Face's library makes of them.
"""
import collections
import json
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = """It's a small world, they say, and we'll see that it isn't. The theatre showed three films there;
the other one, which I've never seen, wasn't shown. Hello world! Hello there, hello. In 1999 and 2009
the same thing happened: 10 000 people came to the sea to see the same old show. They're here."""


def byte_spelling():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, used = {}, 0
    for byte in range(256):
        table[byte] = chr(byte) if byte in own else chr(0x100 + used)
        used += byte not in own
    return table


def added(id, content, **flags):
    token = dict(id=id, content=content, single_word=False, lstrip=False, rstrip=False,
                 normalized=False, special=True)
    return {**token, **flags}


def write(name, **parts):
    document = dict(version="1.0", truncation=None, padding=None, **parts)
    with open(os.path.join(HERE, name, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(document, f, ensure_ascii=False, indent=1)
        f.write("\n")


def learn(words, count):
    """The first merges of BPE for words, which are tuples of tokens with their number."""
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        fresh = collections.Counter()
        for word, times in words.items():
            out = []
            for token in word:
                if out and (out[-1], token) == best:
                    out[-1] += token
                else:
                    out.append(token)
            fresh[tuple(out)] += times
        words = fresh
    return merges


def byte_level():
    spelling = byte_spelling()
    words = collections.Counter(
        tuple(spelling[b] for b in w.encode()) for w in re.findall(r" ?\w+| ?[^\w\s]+|\s+", TEXT))
    merges = learn(words, 120)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(spelling[b] for b in range(256)),
              *dict.fromkeys(a + b for a, b in merges), "<mask>"]
    vocab = {t: i for i, t in enumerate(tokens)}
    write("byte_level",
          added_tokens=[added(vocab[t], t, lstrip=t == "<mask>")
                        for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")],
          normalizer=None,
          pre_tokenizer=dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True),
          post_processor=dict(type="RobertaProcessing", sep=["</s>", vocab["</s>"]],
                              cls=["<s>", vocab["<s>"]], trim_offsets=True,
                              add_prefix_space=False),
          decoder=dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True),
          model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="",
                     end_of_word_suffix="", fuse_unk=False, vocab=vocab,
                     merges=[f"{a} {b}" for a, b in merges]))


def added_tokens():
    letters = "abcdefghijklmnopqrstuvwxyzéüABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
    tokens = ["[UNK]", "[CLS]", "[SEP]", *letters, *("##" + c for c in letters),
              "the", "hello", "world", "##llo", "##rld", "##ing", "Foo"]
    vocab = {t: i for i, t in enumerate(tokens)}
    n = len(tokens)
    write("added_tokens",
          added_tokens=[
              added(0, "[UNK]"), added(1, "[CLS]"), added(2, "[SEP]"),
              added(n, "[NEW]", lstrip=True, rstrip=True),
              added(n + 1, "ABC", special=False, normalized=True),
              added(n + 2, "ABCD", special=False, normalized=True, single_word=True),
              added(n + 3, "Café", special=False, normalized=True, rstrip=True),
              added(n + 4, "raw", special=False, single_word=True)],
          normalizer=dict(type="Sequence", normalizers=[
              dict(type="NFC"), dict(type="Lowercase"),
              dict(type="Replace", pattern=dict(String="``"), content='"'),
              dict(type="Strip", strip_left=True, strip_right=True)]),
          pre_tokenizer=dict(type="Sequence", pretokenizers=[
              dict(type="Whitespace"), dict(type="Punctuation", behavior="Isolated")]),
          post_processor=dict(
              type="TemplateProcessing",
              single=[dict(SpecialToken=dict(id="start", type_id=0)),
                      dict(Sequence=dict(id="A", type_id=0))],
              pair=[dict(Sequence=dict(id="B", type_id=1)),
                    dict(SpecialToken=dict(id="start", type_id=2)),
                    dict(Sequence=dict(id="A", type_id=3))],
              special_tokens={"start": dict(id="start", ids=[1, 2], tokens=["[CLS]", "[SEP]"])}),
          decoder=dict(type="WordPiece", prefix="##", cleanup=True),
          model=dict(type="WordPiece", unk_token="[UNK]", continuing_subword_prefix="##",
                     max_input_chars_per_word=20, vocab=vocab))


def characters(specials, count):
    """A vocabulary of the text's characters, with what they are merged to; a space is U+2581."""
    words = collections.Counter(
        tuple(w) for w in re.findall(r"\u2581?[^\u2581]+", "\u2581" + TEXT.replace(" ", "\u2581")))
    merges = learn(words, count)
    tokens = [*specials, *sorted(set("\u2581" + TEXT.replace(" ", "\u2581"))),
              *dict.fromkeys(a + b for a, b in merges)]
    return {t: i for i, t in enumerate(tokens)}, [f"{a} {b}" for a, b in merges]


def byte_fallback():
    """As the Llama family has it."""
    vocab, merges = characters(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))], 150)
    write("byte_fallback",
          added_tokens=[added(vocab[t], t) for t in ("<unk>", "<s>", "</s>")],
          normalizer=dict(type="Sequence", normalizers=[
              dict(type="Prepend", prepend="\u2581"),
              dict(type="Replace", pattern=dict(String=" "), content="\u2581")]),
          pre_tokenizer=None,
          post_processor=dict(
              type="TemplateProcessing",
              single=[dict(SpecialToken=dict(id="<s>", type_id=0)),
                      dict(Sequence=dict(id="A", type_id=0))],
              pair=[dict(SpecialToken=dict(id="<s>", type_id=0)),
                    dict(Sequence=dict(id="A", type_id=0)),
                    dict(SpecialToken=dict(id="<s>", type_id=1)),
                    dict(Sequence=dict(id="B", type_id=1))],
              special_tokens={"<s>": dict(id="<s>", ids=[1], tokens=["<s>"])}),
          decoder=dict(type="Sequence", decoders=[
              dict(type="Replace", pattern=dict(String="\u2581"), content=" "),
              dict(type="ByteFallback"), dict(type="Fuse"),
              dict(type="Strip", content=" ", start=1, stop=0)]),
          model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None,
                     end_of_word_suffix=None, fuse_unk=True, byte_fallback=True, vocab=vocab,
                     merges=merges))


def metaspace():
    vocab, merges = characters(["<unk>"], 100)
    write("metaspace",
          added_tokens=[added(0, "<unk>"),
                        added(len(vocab), "[MASK]", special=False, normalized=True)],
          normalizer=dict(type="NFC"),
          pre_tokenizer=dict(type="Sequence", pretokenizers=[
              dict(type="Digits", individual_digits=True),
              dict(type="Split", pattern=dict(String="th"), behavior="MergedWithPrevious",
                   invert=False),
              dict(type="Metaspace", replacement="\u2581", add_prefix_space=True)]),
          post_processor=None,
          decoder=dict(type="Metaspace", replacement="\u2581", add_prefix_space=True),
          model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None,
                     end_of_word_suffix=None, fuse_unk=False, vocab=vocab, merges=merges))


if __name__ == "__main__":
    byte_level()
    added_tokens()
    byte_fallback()
    metaspace()
