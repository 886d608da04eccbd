#!/usr/bin/env python3
"""deploy/proxy/haproxy.cfg before three servers: it is valid, spreads the calls of one client over all of
them, and goes on when one dies or stops.

  proxy_test.py SOURCE_DIR THRESHERD THRESHER
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

from harness import PATIENCE, Process, Server, checks, eventually, get, need, run, temporary_directory

SOURCE, THRESHERD, THRESHER = sys.argv[1:]
CONFIG = os.path.join(SOURCE, "deploy/proxy/haproxy.cfg")
MODELS = {"sst2-mini": os.path.join(SOURCE, "models/sst2-mini")}
haproxy = need("haproxy", "haproxy")


def the_configuration_is_valid():
    run([haproxy, "-c", "-f", CONFIG])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def configuration(address, servers):
    """The file as it is shipped, with these addresses."""
    with open(CONFIG, encoding="utf-8") as file:
        text = file.read()
    text, binds = re.subn(r"bind \S+", f"bind {address}", text)
    remaining = iter(servers)

    def readdressed(line):
        server = next(remaining)
        return f"{line[1]} {server.grpc} port {server.http.rsplit(':', 1)[1]}"
    text, replaced = re.subn(r"^( +server \S+) \S+ port \d+", readdressed, text, flags=re.MULTILINE)
    assert (binds, replaced) == (1, len(servers)), "the file's own addresses"
    return text


def answered(server):
    """Texts that this server classified; as many as before if it does not answer."""
    status, text = get(f"http://{server.http}/metrics")
    if status == 200:
        line = re.search(r'^thresher_requests_total\{method="Classify",model="sst2-mini",outcome="ok"\} (\S+)$',
                         text, re.MULTILINE)
        server.answered = float(line[1]) if line else 0.0
    return getattr(server, "answered", 0.0)


class Classify(Process):
    """A client that classifies what it is given, until there is no more."""

    def __init__(self, address):
        super().__init__([THRESHER, "classify", "--server", address, "--model", "sst2-mini", "--json", "--quiet"],
                         stdin=subprocess.PIPE, text=True)
        self.texts = 0

    def give(self, texts):
        for _ in range(texts):
            self.texts += 1
            self.child.stdin.write(f"a film that is number {self.texts} of its kind\n")
        self.child.stdin.flush()

    def give_until(self, condition, what):
        def given():
            assert self.running(), self.said(self.error)
            self.give(64)
            return condition()
        eventually(given, what)

    def finish(self):
        """Every text has its answer."""
        self.child.stdin.close()
        status = self.child.wait(PATIENCE)
        answers = len(self.said(self.output).splitlines())
        assert (status, answers) == (0, self.texts), f"status {status}, {answers} answers\n{self.said(self.error)}"


def calls_are_spread_and_survive_a_death_and_a_stop():
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(temporary_directory())
        servers = [stack.enter_context(Server(THRESHERD, MODELS, "--threads", "1", "--lame-duck", "3s")) for _ in range(3)]
        address = f"127.0.0.1:{free_port()}"
        path = os.path.join(directory, "haproxy.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(configuration(address, servers))
        proxy = stack.enter_context(Process([haproxy, "-db", "-f", path]))

        def serves():
            assert proxy.running(), proxy.said(proxy.error)
            return subprocess.run([THRESHER, "health", "--server", address, "--deadline", "5s"],
                                  capture_output=True, check=False).returncode == 0
        eventually(serves, "the proxy passes calls on")

        with Classify(address) as client:
            client.give(600)
            client.finish()
        spread = [answered(server) for server in servers]
        print("answered by each:", spread)
        assert sum(spread) >= 600 and min(spread) > 0, f"not spread over all: {spread}"

        first, victim, leaver = servers
        with Classify(address) as client:
            client.give_until(lambda: answered(victim) > spread[1], "the victim works")
            victim.child.send_signal(signal.SIGKILL)
            before = [answered(first), answered(leaver)]
            client.give_until(lambda: answered(first) > before[0] and answered(leaver) > before[1],
                              "the others go on")
            client.finish()

        # That one stops in order nobody notices: the proxy looks away while it still serves.
        with Classify(address) as client:
            before = answered(leaver)
            client.give_until(lambda: answered(leaver) > before, "the leaver works")
            leaver.child.terminate()
            client.give_until(lambda: not leaver.running(), "the leaver stops")
            client.finish()
        assert leaver.child.wait() == 0, leaver.said(leaver.error)


checks(the_configuration_is_valid, calls_are_spread_and_survive_a_death_and_a_stop)
