#!/usr/bin/env python3
"""Collects Google Benchmark files into one list of results, or compares two such lists.

  collect.py FILE.json ... --json results.json --markdown results.md
  collect.py --compare OLD.json NEW.json [--tolerance 0.10]

From each benchmark come its time and its counters. Two kinds of counters have a meaning by their name:
"limit X" is the limit that the counter X is held against, and "ratio to X" is how many times better
this benchmark is than X, measured in the same run. A comparison looks at ratios and percentages of a limit
only: times of different runs do not compare. It exits with 1 when any of them fell by more than the
tolerance.
"""
import argparse
import json
import re
import sys

KNOWN = {
    "name", "run_name", "run_type", "repetitions", "repetition_index", "threads", "iterations",
    "real_time", "cpu_time", "time_unit", "family_index", "per_family_instance_index",
    "aggregate_name", "aggregate_unit", "label", "error_occurred", "error_message",
}


# What Google Benchmark adds to a name.
HOW_RUN = re.compile(r"(/iterations:\d+|/(manual|real|process)_time)+$")


def read(path):
    """What a file of Google Benchmark's holds; a program of which no benchmark was chosen leaves it empty."""
    with open(path) as file:
        text = file.read()
    return json.loads(text) if text.strip() else {"benchmarks": []}


def results_of(document):
    """The results of one Google Benchmark file; with repetitions, of the medians."""
    rows = document["benchmarks"]
    medians = [row for row in rows if row.get("aggregate_name") == "median"]
    repeated = {row["run_name"] for row in medians}
    rows = medians + [row for row in rows
                      if row["run_type"] == "iteration" and row.get("run_name") not in repeated]
    for row in rows:
        name = HOW_RUN.sub("", row.get("run_name", row["name"]))
        if row.get("error_occurred"):
            yield {"name": name, "error": row["error_message"]}
            continue
        yield {"name": name, "value": row["real_time"], "unit": row["time_unit"]}
        counters = {key: value for key, value in row.items() if key not in KNOWN}
        for counter, value in counters.items():
            if counter.startswith("limit "):
                continue
            entry = {"name": f"{name}: {counter}", "value": value, "unit": counter.split()[-1]}
            if counter.startswith("ratio to "):
                entry.update(unit="x", ratio=value, against=counter.removeprefix("ratio to "))
            limit = counters.get("limit " + counter)
            if limit:
                entry.update(limit=limit, percent_of_limit=100.0 * value / limit)
            yield entry


def markdown(results):
    yield "| benchmark | value | unit | limit | % of limit | against |"
    yield "|---|---|---|---|---|---|"
    for r in results:
        if "error" in r:
            yield f"| {r['name']} | failed: {r['error']} | | | | |"
            continue
        limit = f"{r['limit']:.4g}" if "limit" in r else ""
        percent = f"{r['percent_of_limit']:.0f}" if "limit" in r else ""
        yield (f"| {r['name']} | {r['value']:.4g} | {r['unit']} | {limit} | {percent} "
               f"| {r.get('against', '')} |")


def compare(old, new, tolerance):
    """Prints what changed of ratios and shares of a limit; the number that fell."""
    before = {r["name"]: r for r in old}
    fell = 0
    for r in new:
        key = "ratio" if "ratio" in r else "percent_of_limit" if "percent_of_limit" in r else None
        if key is None or key not in before.get(r["name"], {}):
            continue
        was, now = before[r["name"]][key], r[key]
        change = now / was - 1 if was else 0.0
        worse = change < -tolerance
        fell += worse
        print(f"{'WORSE ' if worse else '      '}{r['name']}: {was:.3g} -> {now:.3g} ({change:+.0%})")
    return fell


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parser.add_argument("--compare", nargs=2, metavar=("OLD", "NEW"))
    parser.add_argument("--tolerance", type=float, default=0.10)
    arguments = parser.parse_args()
    try:
        if arguments.compare:
            old, new = (json.load(open(path)) for path in arguments.compare)
            sys.exit(1 if compare(old, new, arguments.tolerance) else 0)
        results = [r for path in arguments.files for r in results_of(read(path))]
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    except json.JSONDecodeError as error:
        parser.error(f"not JSON: {error}")
    if not results:
        parser.error("no results: is there a benchmark by this filter?")
    if arguments.json:
        with open(arguments.json, "w") as out:
            json.dump(results, out, indent=1)
            out.write("\n")
    text = "\n".join(markdown(results)) + "\n"
    if arguments.markdown:
        with open(arguments.markdown, "w") as out:
            out.write(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
