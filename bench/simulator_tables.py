#!/usr/bin/env python3
"""Writes the tables of docs/simulator.md that hold spatial arrays against the FuseMax study's published
results (between <!-- table: NAME --> and <!-- end -->).

    bench/simulator_tables.py --published ../shared/golden/fusemax

`--published` is the directory of the study's results. `--thresher` says which program; default
build/release/bin/thresher.
"""
import argparse
import csv
import json
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "simulator.md"
FILES = {
    "attn-binding.csv": "fusemax-cloud",
    "attn-arch.csv": "fusemax-architecture",
    "attn-cascade.csv": "fusemax-cascade",
    "attn-flat.csv": "flat-cloud",
    "attn-unfused.csv": "unfused",
}
SHAPES = {"BERT": "bert-base", "TrXL": "trxl", "T5": "t5-small", "XLM": "xlm"}
LENGTHS = {"1K": 1 << 10, "4K": 1 << 12, "16K": 1 << 14, "64K": 1 << 16, "256K": 1 << 18, "1M": 1 << 20}
SHOWN = ["1K", "16K", "1M"]  # Lengths of the long table, of BERT.


def simulate(thresher, preset, shape, tokens):
    """What one layer's attention costs a batch of 64."""
    command = [thresher, "simulate", "--preset", preset, "--shape", shape, "--tokens", str(tokens),
               "--batch", "64", "--attention-only", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def number(value):
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=pathlib.Path, required=True)
    parser.add_argument("--thresher", default=str(ROOT / "build" / "release" / "bin" / "thresher"))
    arguments = parser.parse_args()

    rows = ["| BERT, tokens | preset | time, s | published | DRAM, GB | published | 2D array busy | published "
            "| energy, J | published |", "|---|---|---|---|---|---|---|---|---|---|"]
    distances = ["| preset | time | DRAM bytes | 2D array busy | energy |", "|---|---|---|---|---|"]
    shown = {length: [] for length in SHOWN}
    for file, preset in FILES.items():
        worst = {"latency": (0, ""), "traffic": (0, ""), "util_2d": (0, ""), "energy": (0, "")}
        with open(arguments.published / file, encoding="utf-8") as results:
            for row in csv.DictReader(results):
                run = simulate(arguments.thresher, preset, SHAPES[row["model"]], LENGTHS[row["seq_len"]])
                measured = {"latency": run["seconds"], "traffic": run["dram_bytes"],
                            "util_2d": run["utilization"]["array_2d"], "energy": run["energy_joules"] * 1e12}
                for column, value in measured.items():
                    distance = value / float(row[column]) - 1
                    if abs(distance) > abs(worst[column][0]):
                        worst[column] = (distance, f"{row['model']} {row['seq_len']}")
                if row["model"] == "BERT" and row["seq_len"] in SHOWN:
                    cells = []
                    for column, scale in (("latency", 1), ("traffic", 1e-9), ("util_2d", 1), ("energy", 1e-12)):
                        cells += [number(measured[column] * scale), number(float(row[column]) * scale)]
                    shown[row["seq_len"]].append(f"| {row['seq_len']} | `{preset}` | " + " | ".join(cells) + " |")
        cells = [f"{100 * distance:+.3f} % ({where})" if where and abs(distance) > 5e-6 else "none"
                 for distance, where in worst.values()]
        distances.append(f"| `{preset}` | " + " | ".join(cells) + " |")
    for length in SHOWN:
        rows += shown[length]

    speedups = ["| shape | over `flat-cloud` | over `unfused` | energy of `flat-cloud`'s |", "|---|---|---|---|"]
    every = []
    for shape in SHAPES.values():
        of_shape = []
        for tokens in LENGTHS.values():
            fusemax, flat, unfused = (simulate(arguments.thresher, preset, shape, tokens)
                                      for preset in ("fusemax-cloud", "flat-cloud", "unfused"))
            of_shape.append((flat["seconds"] / fusemax["seconds"], unfused["seconds"] / fusemax["seconds"],
                             fusemax["energy_joules"] / flat["energy_joules"]))
        every += of_shape
        mean = [sum(column) / len(of_shape) for column in zip(*of_shape)]
        speedups.append(f"| `{shape}` | {mean[0]:.2f} x | {mean[1]:.2f} x | {100 * mean[2]:.1f} % |")
    mean = [sum(column) / len(every) for column in zip(*every)]
    speedups.append(f"| mean of all | {mean[0]:.2f} x | {mean[1]:.2f} x | {100 * mean[2]:.1f} % |")
    speedups.append("| published | 6.7 x | 10 x | 79 % |")

    text = DOCUMENT.read_text(encoding="utf-8")
    for name, lines in {"spatial": rows, "spatial-distance": distances, "spatial-speedup": speedups}.items():
        pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = "\n".join(lines) + "\n"
        text, count = pattern.subn(lambda match, body=body: match[1] + body + match[2], text)
        if count != 1:
            raise SystemExit(f"{DOCUMENT}: {count} places for the table '{name}'")
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
