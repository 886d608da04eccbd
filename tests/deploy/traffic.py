"""A server with every kind of model on every kind of work, so that every series there is has data."""

import os
import subprocess
import threading

from harness import PATIENCE, Server

# Each keeps some series above zero that no other does. The modelled accelerator has no hardware for FACT.
SPATTEN = ["dense", "spatten:keep=0.5,heads=0.6,values=0.5,bits=6/4"]
POLICIES = {"sst2-mini": [*SPATTEN, "fact:topk=0.25,ffn=0.5"], "modelled": SPATTEN}
TEXTS = ["a gripping, moving film", "a dull and lifeless mess", "it is what it is, and no more than that"]


class BusyServer(Server):
    """`models` as far as they exist, and calls of all of them one after the other until the end."""

    def __init__(self, thresherd, thresher, source, *arguments):
        self.thresher = thresher
        sst2 = os.path.join(source, "models/sst2-mini")
        shared = os.environ.get("THRESHER_SHARED_DIR", os.path.join(source, "../shared"))
        decoder = os.path.join(shared, "models/stories260k")
        models = {"sst2-mini": sst2, "modelled": f"{sst2},device=sim:spatten"}
        self.generates = os.path.isdir(decoder)
        if self.generates:
            models["stories"] = decoder
        super().__init__(thresherd, models, "--threads", "1", "--metrics-per-layer", "true",
                         "--metrics-attention-every", "1", "--shadow-every", "1", *arguments)
        self.stop = threading.Event()
        self.worker = threading.Thread(target=self.work)
        self.calls = 0
        self.failure = None

    def __enter__(self):
        super().__enter__()
        self.worker.start()
        return self

    def __exit__(self, *exception):
        self.stop.set()
        if self.worker.ident:
            self.worker.join()
        super().__exit__(*exception)

    def call(self, command, *arguments, succeeds=True):
        done = subprocess.run([self.thresher, command, "--server", self.grpc, *arguments],
                              capture_output=True, text=True, timeout=PATIENCE, check=False)
        if (done.returncode == 0) != succeeds and not self.stop.is_set():
            raise AssertionError(f"thresher {command} {' '.join(arguments)}: status {done.returncode}\n"
                                 f"{done.stderr}")

    def round(self):
        for model, policies in POLICIES.items():
            for policy in policies:
                self.call("classify", "--model", model, "--sparsity", policy, *TEXTS)
        self.call("embed", "--model", "sst2-mini", "--quiet", *TEXTS)
        self.call("classify", "--model", "no-such-model", TEXTS[0], succeeds=False)
        if self.generates:
            prompt = "Once upon a time there was a little girl who had a big red ball. " * 4
            for policy in ("dense", "spatten:final=0.5"):
                self.call("generate", "--model", "stories", "--max-tokens", "24", "--ignore-eos",
                          "--quiet", "--sparsity", policy, prompt)

    def work(self):
        try:
            while not self.stop.is_set():
                self.round()
                self.calls += 1
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.failure = error

    def check(self):
        """Raises what went wrong with the calls, if anything did."""
        if self.failure:
            raise AssertionError(str(self.failure))
        if not self.running():
            raise AssertionError(f"thresherd ended:\n{self.said(self.error)}")
