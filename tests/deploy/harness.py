"""What the tests of deploy/ share: skipping, a running thresherd, waiting without sleeping long.

Plain python3 without packages. Each test is a program; exit code 77 means skipped.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# How long anything may take that is waited for, in seconds: a machine may be busy.
PATIENCE = 240


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def need(command, package):
    """The path of `command`; skips the test if there is none."""
    path = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        skip(f"needs {command} (Debian package {package})")
    return path


def eventually(condition, what):
    """Asks until `condition` returns something true, and returns that."""
    end = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not in {PATIENCE} s: {what}")
        time.sleep(0.05)


def get(url, timeout=20):
    """(status, body) of a GET; (0, reason) if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class Process:
    """A child, whose output goes to files, and which does not outlive its `with`."""

    def __init__(self, arguments, **options):
        self.output = tempfile.NamedTemporaryFile(mode="w+", prefix="out-")
        self.error = tempfile.NamedTemporaryFile(mode="w+", prefix="err-")
        options.setdefault("stdin", subprocess.DEVNULL)
        self.child = subprocess.Popen(arguments, stdout=self.output, stderr=self.error, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def said(self, stream):
        with open(stream.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def running(self):
        return self.child.poll() is None


class Server(Process):
    """A thresherd on free ports of the loopback device, once it serves."""

    def __init__(self, binary, models, *arguments):
        command = [binary, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        for name, directory in models.items():
            command += ["--model", f"{name}={directory}"]
        super().__init__(command + list(arguments))

    def __enter__(self):
        def line():
            said = re.search(r"^serving grpc=(\S+) http=(\S+) models=(\d+)$",
                             self.said(self.output), re.MULTILINE)
            if not said and not self.running():
                raise AssertionError(f"thresherd ended:\n{self.said(self.error)}")
            return said

        try:
            self.grpc, self.http, models = eventually(line, "thresherd serves").groups()
            self.models = int(models)
        except BaseException:
            self.__exit__()
            raise
        return self


@contextlib.contextmanager
def on_core(core):
    """What is begun meanwhile runs on that core, from its first instruction."""
    previous = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(core)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, previous)


def checks(*functions):
    """Runs each, says which failed, ends the program."""
    failures = 0
    for function in functions:
        name = function.__name__.replace("_", " ")
        try:
            function()
            print(f"ok: {name}")
        except AssertionError as error:
            failures += 1
            print(f"FAILED: {name}\n  " + str(error).replace("\n", "\n  "))
    sys.exit(1 if failures else 0)


@contextlib.contextmanager
def temporary_directory():
    with tempfile.TemporaryDirectory(prefix="thresher-") as directory:
        yield directory


def run(arguments, **options):
    """The output of a program that must succeed."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE,
                          check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(arguments)}: status {done.returncode}\n"
                             f"{done.stdout}{done.stderr}")
    return done.stdout
