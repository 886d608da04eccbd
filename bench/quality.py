#!/usr/bin/env python3
"""Measures what the policies cost in quality and draws it: docs/quality/*.svg and *.csv, and the tables in
docs/quality.md (between <!-- table: NAME --> and <!-- end -->).

    bench/quality.py --sst2 sst2_dev.tsv --agnews agnews_train.tsv --agnews-model agnews-mini [--only NAME]

Quality is the same on every machine; the figures named *-speed are not: run those on an idle one.
`--thresher` says which program; default build/release/bin/thresher.
"""
import argparse
import csv
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "quality"
SHARES = "0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1"
CONTROLS = ["", ",importance=random", ",importance=inverse"]

# name: (policies, axis of the figure, more flags)
FIGURES = {
    "tokens": (["spatten:final=*" + control for control in CONTROLS], "token", []),
    "heads": (["spatten:final=*,heads=*" + control for control in CONTROLS], "token", []),
    "fact": (["fact:topk=*", "fact:topk=*,ffn=*"], "score", []),
    "speed": (["spatten:final=*", "spatten:final=*,heads=*", "fact:topk=*", "fact:topk=*,ffn=*"], "speedup",
              ["--rounds", "3"]),
}


def tenth(source, target):
    """Every tenth line, the tenth first: the split of AG News that the tables are of."""
    lines = pathlib.Path(source).read_text(encoding="utf-8").split("\n")
    pathlib.Path(target).write_text("".join(line + "\n" for line in lines[9::10]), encoding="utf-8")


def table(rows, speed):
    def percent(text):
        return f"{100 * float(text):.2f} %"

    columns = ["policy", "accuracy", "agreement", "loss", "at most", "KL", "cosine", "tokens", "heads", "scores",
               "QKV rows", "full FFN"] + (["requests/s", "speedup"] if speed else [])
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        dense = row["sparsity"] == "dense"
        cells = [f"`{row['sparsity']}`", percent(row["accuracy"]), percent(row["agreement"]),
                 f"{100 * float(row['loss']):+.2f}", "" if dense else f"{100 * float(row['loss_upper']):+.2f}",
                 f"{float(row['kl']):.5f}", f"{float(row['cosine']):.3f}"]
        cells += [f"{float(row['keep_' + kind]):.3f}"
                  for kind in ("token", "head", "score", "qkv_row", "ffn_full_precision")]
        if speed:
            cells += [f"{float(row['requests_per_second']):.0f}", f"{float(row['speedup']):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def keep_quality(path, rows):
    """Leaves out the times, which no other run would repeat."""
    names = [name for name in rows[0] if name not in ("requests_per_second", "speedup")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def put(name, text):
    path = ROOT / "docs" / "quality.md"
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    page, count = pattern.subn(lambda match: match.group(1) + text + match.group(2), page)
    if count == 0:
        print(f"docs/quality.md has no place for the table {name}", file=sys.stderr)
    path.write_text(page, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sst2", required=True, help="sst2_dev.tsv")
    parser.add_argument("--agnews", help="agnews_train.tsv")
    parser.add_argument("--agnews-model", help="directory of agnews-mini")
    parser.add_argument("--thresher", default=ROOT / "build" / "release" / "bin" / "thresher")
    parser.add_argument("--only", action="append", help="of these figures alone, such as sst2-speed")
    parser.add_argument("--limit", help="examples of the speed figures; default all")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        models = [("sst2", ROOT / "models" / "sst2-mini", arguments.sst2, "sst2-mini, SST-2 dev")]
        if arguments.agnews and arguments.agnews_model:
            split = pathlib.Path(scratch) / "agnews_tenth.tsv"
            tenth(arguments.agnews, split)
            models.append(("agnews", arguments.agnews_model, split, "agnews-mini, a tenth of AG News"))
        for short, model, data, title in models:
            for figure, (policies, axis, flags) in FIGURES.items():
                name = f"{short}-{figure}"
                if arguments.only and name not in arguments.only:
                    continue
                target = OUT / f"{name}.csv"
                command = [arguments.thresher, "evaluate", "--model", model, "--data", data, "--precision", "f32",
                           "--shares", SHARES, "--csv", target, "--plot", OUT / f"{name}.svg", "--plot-x", axis,
                           "--plot-title", title, *flags]
                if figure == "speed" and arguments.limit:
                    command += ["--limit", arguments.limit]
                for policy in policies:
                    command += ["--sparsity", policy]
                print("==", name, flush=True)
                subprocess.run([str(part) for part in command], check=True)
                with target.open(encoding="utf-8") as file:
                    rows = list(csv.DictReader(file))
                if figure != "speed":
                    keep_quality(target, rows)
                put(name, table(rows, figure == "speed"))


if __name__ == "__main__":
    main()
