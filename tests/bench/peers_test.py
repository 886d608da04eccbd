#!/usr/bin/env python3
"""bench/peers/run where a peer is not there: it is named and left out; a case that there is not is an error.

  peers_test.py SOURCE_DIR
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PEERS = os.path.join(sys.argv.pop(1), "bench", "peers")
sys.path.insert(0, PEERS)
sys.dont_write_bytecode = True
import cases  # noqa: E402

# A program in the place of ours, that answers what it is asked.
BENCH = f"""#!{sys.executable}
import json, sys
options = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
rows = [{{"name": "Encoder1x128/f32/iterations:3/manual_time", "median ms": 20.0}}]
json.dump({{"benchmarks": rows}}, open(options["benchmark_out"], "w"))
"""


class PeersTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = pathlib.Path(self.directory.name)
        for name, text in (("encoder_bench", BENCH), ("random_checkpoint", "#!/bin/sh\n")):
            (self.path / name).write_text(text)
            (self.path / name).chmod(0o755)

    def run_peers(self, *arguments):
        return subprocess.run(
            [sys.executable, os.path.join(PEERS, "run"), "--binaries", self.path, "--directory", self.path / "kept",
             "--peers", "ONNX", *arguments], capture_output=True, text=True,
            env={"PATH": str(self.path)})  # Where there is no node.

    def test_an_absent_peer_is_named_and_the_rest_is_measured(self):
        out = self.path / "out.json"
        result = self.run_peers("--cases", "Encoder1x128/f32", "--rounds", "2", "--json", out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("ONNX Runtime is left out: no node", result.stderr)
        self.assertIn("| Encoder1x128/f32 | 20 | 6400 |", result.stdout)
        self.assertEqual(json.loads(out.read_text())[0],
                         {"name": "Thresher: Encoder1x128/f32", "value": 20.0, "unit": "ms"})

    def test_a_case_that_there_is_not_is_an_error_with_those_that_are(self):
        result = self.run_peers("--cases", "Encoder1x129")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("Encoder1x128/f32", result.stderr)

    def test_mixed_lengths_are_padded_to_the_longest_of_eight(self):
        batches = cases.batches_of("EncoderMixed/int8")
        self.assertEqual(len(batches), 8)
        self.assertEqual(batches[0], (8, 270))
        self.assertEqual(sum(sequences for sequences, _ in batches), 64)
        self.assertLess(cases.tokens_of("EncoderMixed/int8"), sum(n * tokens for n, tokens in batches))
        self.assertEqual(cases.tokens_of("Encoder8x128/f32"), 1024)


if __name__ == "__main__":
    unittest.main()
