#!/usr/bin/env python3
"""bench/collect.py by hand-made files: what becomes of a benchmark's counters, and what a comparison calls worse.

  collect_test.py SOURCE_DIR
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

COLLECT = os.path.join(sys.argv.pop(1), "bench", "collect.py")


class CollectTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def write(self, name, value):
        path = pathlib.Path(self.directory.name) / name
        path.write_text(json.dumps(value))
        return str(path)

    def collect(self, *rows):
        source = self.write("bench.json", {"context": {}, "benchmarks": list(rows)})
        out, table = (os.path.join(self.directory.name, name) for name in ("results.json", "results.md"))
        subprocess.run([sys.executable, COLLECT, source, "--json", out, "--markdown", table], check=True)
        return json.loads(pathlib.Path(out).read_text()), pathlib.Path(table).read_text()

    def compare(self, old, new, *options):
        return subprocess.run(
            [sys.executable, COLLECT, "--compare", self.write("old.json", old), self.write("new.json", new), *options],
            capture_output=True, text=True)

    @staticmethod
    def row(name="Product/M:8/real_time", **counters):
        return {"name": name, "run_name": name, "run_type": "iteration", "iterations": 3, "real_time": 2.0,
                "cpu_time": 1.9, "time_unit": "ms", **counters}

    def test_a_time_and_a_counter_are_results_of_their_own(self):
        results, _ = self.collect(self.row(**{"tokens/s": 50.0}))
        self.assertEqual(results, [{"name": "Product/M:8", "value": 2.0, "unit": "ms"},
                                   {"name": "Product/M:8: tokens/s", "value": 50.0, "unit": "tokens/s"}])

    def test_a_counter_with_a_limit_has_its_share_of_it(self):
        results, table = self.collect(self.row(**{"attention GFLOP/s": 30.0, "limit attention GFLOP/s": 120.0}))
        self.assertEqual(results[1], {"name": "Product/M:8: attention GFLOP/s", "value": 30.0, "unit": "GFLOP/s",
                                      "limit": 120.0, "percent_of_limit": 25.0})
        self.assertIn("| Product/M:8: attention GFLOP/s | 30 | GFLOP/s | 120 | 25 |  |", table)

    def test_a_ratio_says_against_what(self):
        results, table = self.collect(self.row(**{"ratio to oneDNN": 1.5}))
        self.assertEqual(results[1], {"name": "Product/M:8: ratio to oneDNN", "value": 1.5, "unit": "x", "ratio": 1.5,
                                      "against": "oneDNN"})
        self.assertIn("| oneDNN |", table)

    def test_a_ratio_may_have_a_limit_too(self):
        results, _ = self.collect(self.row(**{"ratio to dense": 2.0, "limit ratio to dense": 4.0}))
        self.assertEqual((results[1]["ratio"], results[1]["limit"], results[1]["percent_of_limit"]), (2.0, 4.0, 50.0))

    def test_of_repetitions_the_median_counts(self):
        runs = [self.row() for _ in range(3)]
        median = {**self.row(), "name": "Product/M:8/real_time_median", "run_type": "aggregate",
                  "aggregate_name": "median", "real_time": 1.0}
        results, _ = self.collect(*runs, median)
        self.assertEqual(results, [{"name": "Product/M:8", "value": 1.0, "unit": "ms"}])

    def test_a_benchmark_that_failed_is_told(self):
        results, table = self.collect({**self.row(), "error_occurred": True, "error_message": "no memory"})
        self.assertEqual(results, [{"name": "Product/M:8", "error": "no memory"}])
        self.assertIn("failed: no memory", table)

    def test_a_program_without_a_chosen_benchmark_adds_nothing(self):
        empty = pathlib.Path(self.directory.name) / "other.json"
        empty.write_text("")
        source = self.write("bench.json", {"benchmarks": [self.row()]})
        both = subprocess.run([sys.executable, COLLECT, str(empty), source], capture_output=True, text=True)
        self.assertEqual((both.returncode, both.stderr), (0, ""))
        self.assertIn("| Product/M:8 | 2 | ms |", both.stdout)
        alone = subprocess.run([sys.executable, COLLECT, str(empty)], capture_output=True, text=True)
        self.assertEqual(alone.returncode, 2)
        self.assertIn("no results: is there a benchmark by this filter?", alone.stderr)

    def test_a_file_that_is_not_there_is_named(self):
        missing = subprocess.run([sys.executable, COLLECT, "--compare", "/nowhere/a.json", "/nowhere/b.json"],
                                 capture_output=True, text=True)
        self.assertEqual(missing.returncode, 2)
        self.assertIn("/nowhere/a.json: No such file or directory", missing.stderr)

    def test_nothing_is_worse_within_the_tolerance(self):
        old = [{"name": "a", "value": 1, "unit": "x", "ratio": 2.0, "against": "b"},
               {"name": "c", "value": 1, "unit": "GB/s", "limit": 2, "percent_of_limit": 50.0}]
        new = [{**old[0], "ratio": 1.9}, {**old[1], "percent_of_limit": 80.0}]
        result = self.compare(old, new)
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stdout.splitlines(), ["      a: 2 -> 1.9 (-5%)", "      c: 50 -> 80 (+60%)"])

    def test_a_ratio_or_a_share_that_fell_is_worse(self):
        old = [{"name": "a", "value": 1, "unit": "x", "ratio": 2.0, "against": "b"},
               {"name": "c", "value": 1, "unit": "GB/s", "limit": 2, "percent_of_limit": 50.0}]
        for i, change in enumerate([{"ratio": 1.5}, {"percent_of_limit": 40.0}]):
            new = [dict(entry) for entry in old]
            new[i].update(change)
            result = self.compare(old, new)
            self.assertEqual(result.returncode, 1)
            self.assertEqual([line.startswith("WORSE ") for line in result.stdout.splitlines()], [i == 0, i == 1])
            self.assertEqual(self.compare(old, new, "--tolerance", "0.3").returncode, 0)

    def test_times_of_different_runs_do_not_compare(self):
        result = self.compare([{"name": "a", "value": 1.0, "unit": "ms"}], [{"name": "a", "value": 9.0, "unit": "ms"}])
        self.assertEqual((result.returncode, result.stdout), (0, ""))

    def test_what_one_file_lacks_is_passed_over(self):
        old = [{"name": "gone", "value": 1, "unit": "x", "ratio": 2.0, "against": "b"},
               {"name": "zero", "value": 0, "unit": "x", "ratio": 0.0, "against": "b"}]
        new = [{**old[0], "name": "new"}, {**old[1], "ratio": 1.0}, {"name": "gone", "error": "no memory"}]
        self.assertEqual(self.compare(old, new).returncode, 0)


if __name__ == "__main__":
    unittest.main()
