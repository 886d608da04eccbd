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
    lines = iter(servers)
    text, replaced = re.subn(
        r"^( +server \S+) \S+ port \d+",
        lambda line: (lambda server: f"{line[1]} {server.grpc} port {server.http.rsplit(':', 1)[1]}")(next(lines)),
        text, flags=re.MULTILINE)
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


def classify(address, texts, directory):
    path = os.path.join(directory, "texts")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"a film that is number {number} of its kind\n" for number in range(texts))
    return subprocess.Popen([THRESHER, "classify", "--server", address, "--file", path, "--json"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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

        client = classify(address, 600, directory)
        output, error = client.communicate(timeout=PATIENCE)
        assert client.returncode == 0, f"{error}\n{proxy.said(proxy.error)}"
        assert len(output.splitlines()) == 600, error
        spread = [answered(server) for server in servers]
        print("answered by each:", spread)
        assert sum(spread) >= 600 and min(spread) > 0, f"not spread over all: {spread}"

        # One dies at work.
        client = classify(address, 6000, directory)
        victim = servers[1]
        before = answered(victim)
        eventually(lambda: answered(victim) > before or client.poll() is not None, "the victim works")
        assert client.poll() is None, "the client was done before anybody died"
        victim.child.send_signal(signal.SIGKILL)
        output, error = client.communicate(timeout=PATIENCE)
        assert client.returncode == 0, error
        assert len(output.splitlines()) == 6000, f"{len(output.splitlines())} answers\n{error}"
        left = [answered(server) for server in servers]
        print("and after a death:", left)
        assert left[0] > spread[0] and left[2] > spread[2], left

        # One stops in order, which nobody notices: the proxy looks away while it still serves.
        client = classify(address, 6000, directory)
        leaver = servers[2]
        eventually(lambda: answered(leaver) > left[2] or client.poll() is not None, "the leaver works")
        leaver.child.terminate()
        output, error = client.communicate(timeout=PATIENCE)
        assert client.returncode == 0 and len(output.splitlines()) == 6000, error
        assert leaver.child.wait(PATIENCE) == 0, leaver.said(leaver.error)



checks(the_configuration_is_valid, calls_are_spread_and_survive_a_death_and_a_stop)
