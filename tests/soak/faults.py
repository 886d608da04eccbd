#!/usr/bin/env python3
"""Clients that are slow, broken or hostile, at a server that is answering others meanwhile: nobody else must
notice, memory and threads stay bounded, and the server stops in order at the end.

  faults.py SOURCE_DIR THRESHERD THRESHER [--minutes M] [--connections N]

One round of each fault; with --minutes, rounds until the time is over. Loopback alone.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../deploy"))
from harness import PATIENCE, Process, Server, eventually, get, run  # noqa: E402
from wire import (ACK, CLASSIFY, CONTINUATION, DATA, END_HEADERS, END_STREAM, GENERATE, HEADERS,  # noqa: E402
                  PREFACE, RST_STREAM, SETTINGS, Connection, classify, frame, generate, header_block,
                  settings)

parser = argparse.ArgumentParser()
parser.add_argument("source")
parser.add_argument("thresherd")
parser.add_argument("thresher")
parser.add_argument("--minutes", type=float, default=0)
parser.add_argument("--connections", type=int, default=500, help="of the many that only idle")
ARGS = parser.parse_args()

MODELS = {"sst2-mini": os.path.join(ARGS.source, "models/sst2-mini"),
          "text": os.path.join(ARGS.source, "tests/golden/decoder-gpt2")}
# What the faults may leave behind, beyond what the first round took: allocators keep some.
SPARE_MEMORY = (48 << 20) + ARGS.connections * (16 << 10)
SPARE_THREADS = 24
random.seed(1)


def status(server):
    """Resident bytes and threads."""
    with open(f"/proc/{server.child.pid}/status", encoding="utf-8") as file:
        text = file.read()
    return (int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) << 10, int(re.search(r"Threads:\s+(\d+)", text)[1]))


def opened(server, *more):
    """A connection on which HTTP/2 has begun."""
    connection = Connection(server.grpc)
    connection.send(PREFACE, settings(), *more)
    return connection


def call(path, stream=1, flags=END_HEADERS):
    return frame(HEADERS, flags, stream, header_block(path))


def answers_a_call(server):
    with opened(server, call(CLASSIFY), frame(DATA, END_STREAM, 1, classify())) as connection:
        assert connection.answer(1), "a call by hand is answered"


# --- the faults ---------------------------------------------------------------------------------------------

def connections_that_say_nothing(server):
    connections = [Connection(server.grpc) for _ in range(ARGS.connections)]
    answers_a_call(server)
    for connection in connections:
        connection.socket.close()


def connections_that_stop_after_the_greeting(server):
    connections = [opened(server) for _ in range(min(ARGS.connections, 2000))]
    answers_a_call(server)
    for connection in connections:
        connection.socket.close()


def greetings_that_break_off(server):
    for size in range(1, len(PREFACE) + 9):
        with Connection(server.grpc) as connection:
            connection.send((PREFACE + settings())[:size])


def calls_whose_message_never_comes(server):
    connections = [opened(server, call(CLASSIFY), frame(DATA, 0, 1, classify()[:9])) for _ in range(50)]
    answers_a_call(server)
    for connection in connections:
        connection.socket.close()


def a_call_byte_by_byte(server):
    body = classify()
    with Connection(server.grpc) as connection:
        connection.trickle(PREFACE + settings() + call(CLASSIFY))
        for at in range(len(body)):
            last = at == len(body) - 1
            connection.send(frame(DATA, END_STREAM if last else 0, 1, body[at:at + 1]))
        assert connection.answer(1), "a call in frames of one byte is answered"


def many_empty_frames(server):
    with opened(server, call(CLASSIFY)) as connection:
        try:
            for _ in range(200):
                connection.send(frame(DATA, 0, 1) * 100)
        except OSError:
            return  # It may hang up.
        connection.send(frame(DATA, END_STREAM, 1, classify()))
        connection.answer(1)


def resets_in_mid_message(server):
    for _ in range(50):
        opened(server, call(CLASSIFY), frame(DATA, 0, 1, classify()[:9])).reset()
        opened(server, call(CLASSIFY), frame(DATA, END_STREAM, 1, classify())).reset()


def streams_that_are_reset_at_once(server):
    with opened(server) as connection:
        try:
            for stream in range(1, 4001, 2):
                connection.send(call(CLASSIFY, stream), frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
        except OSError:
            pass  # It may hang up.
    answers_a_call(server)


def garbage_instead_of_http2(server):
    for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 4096, random.randbytes(65536),
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500),
                    PREFACE + random.randbytes(65536), PREFACE + frame(200, 255, 7, random.randbytes(100)),
                    PREFACE + settings() + frame(HEADERS, END_HEADERS, 1, random.randbytes(2000)),
                    PREFACE + settings() + frame(DATA, 0, 9, b"x" * 100),
                    PREFACE + settings() + b"\xff\xff\xff\0\0\0\0\0\1" + random.randbytes(100000)):
        with Connection(server.grpc) as connection:
            try:
                connection.send(garbage)
                connection.socket.shutdown(socket.SHUT_WR)
                connection.await_end()
            except OSError:
                pass


def headers_that_are_too_large(server):
    block = header_block(CLASSIFY, [(f"x-{i}", "y" * 1000) for i in range(64)])
    parts = [block[at:at + 16000] for at in range(0, len(block), 16000)]
    with opened(server) as big:
        while big.read_frame()[0] != SETTINGS:
            pass
        # The limit holds from here on.
        big.send(frame(SETTINGS, ACK, 0), frame(HEADERS, 0, 1, parts[0]),
                 *(frame(CONTINUATION, 0, 1, part) for part in parts[1:-1]),
                 frame(CONTINUATION, END_HEADERS, 1, parts[-1]), frame(DATA, END_STREAM, 1, classify()))
        assert big.answer(1) is None, "64 KiB of headers"
    # Without an end.
    with opened(server, frame(HEADERS, 0, 1, block[:8000])) as endless:
        try:
            for _ in range(2000):
                endless.send(frame(CONTINUATION, 0, 1, header_block("/", [("x", "y" * 4000)])))
        except OSError:
            pass


def messages_that_claim_to_be_huge(server):
    """gRPC refuses a message when it is whole; until then its memory quota holds."""
    connections = [opened(server, call(CLASSIFY), frame(DATA, 0, 1, b"\0\xff\xff\xff\xff" + b"x" * 1000))
                   for _ in range(20)]
    answers_a_call(server)
    for connection in connections:
        connection.reset()


def texts_that_nobody_reads(server):
    """The window for answers is shut."""
    connections = []
    for _ in range(8):
        connection = Connection(server.grpc)
        connection.send(PREFACE, settings(initial_window_size=0), frame(SETTINGS, ACK, 0), call(GENERATE),
                        frame(DATA, END_STREAM, 1, generate("text", 30)))
        connections.append(connection)
    answers_a_call(server)
    for connection in connections:
        connection.reset()


def http_clients_that_stall(server):
    connections = [Connection(server.http) for _ in range(100)]
    for connection in connections[:50]:
        connection.send(b"GET /metrics HTTP/1.1\r\nX: ")
    for connection in connections:
        connection.reset()
    assert get(f"http://{server.http}/healthz")[0] == 200


FAULTS = [connections_that_say_nothing, connections_that_stop_after_the_greeting, greetings_that_break_off,
          calls_whose_message_never_comes, a_call_byte_by_byte, many_empty_frames, resets_in_mid_message,
          streams_that_are_reset_at_once, garbage_instead_of_http2, headers_that_are_too_large,
          messages_that_claim_to_be_huge, texts_that_nobody_reads, http_clients_that_stall]


def tls_garbage(server, directory):
    """On both listeners of a server that speaks TLS alone."""
    for address in (server.grpc, server.http):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", PREFACE + settings(), random.randbytes(65536),
                        b"\x16\x03\x01\x40\x00" + b"\x01" * 70000, b"\x16\x03\x01\x00\x05\x01"):
            with Connection(address) as connection:
                try:
                    connection.send(garbage)
                    connection.socket.shutdown(socket.SHUT_WR)
                    connection.socket.recv(65536)
                except OSError:
                    pass
        silent = [Connection(address) for _ in range(100)]
        context = ssl.create_default_context(cafile=os.path.join(directory, "cert.pem"))
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as bare:
            with context.wrap_socket(bare, server_hostname="localhost") as secured:
                assert secured.version() in ("TLSv1.2", "TLSv1.3"), secured.version()
        for connection in silent:
            connection.reset()
    run([ARGS.thresher, "health", "--server", server.grpc, "--tls-ca", os.path.join(directory, "cert.pem"),
         "--tls-name", "localhost"])


# --- the run ------------------------------------------------------------------------------------------------

class Load(Process):
    """Calls of others, all of which must succeed."""

    def __init__(self, server, seconds):
        super().__init__([ARGS.thresher, "load", "--server", server.grpc, "--model", "sst2-mini", "--method",
                          "classify", "--mode", "closed", "--concurrency", "2", "--warmup", "0s", "--duration",
                          f"{seconds}s", "--deadline", "30s", "--json"])

    def finish(self):
        self.child.wait(PATIENCE + ARGS.minutes * 60)
        report = json.loads(self.said(self.output).splitlines()[-1])
        outcomes = {name: count for name, count in report["outcomes"].items() if count}
        assert set(outcomes) == {"ok"}, f"others noticed: {outcomes}"
        return outcomes["ok"]


def round_of_faults(server, said):
    for fault in FAULTS:
        name = fault.__name__.replace("_", " ")
        began = time.monotonic()
        try:
            fault(server)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        assert server.running(), f"{name} ended the server:\n{server.said(server.error)}"
        if said:
            memory, threads = status(server)
            print(f"ok: {name} ({time.monotonic() - began:.2f} s; {memory >> 20} MiB, {threads} threads)", flush=True)


def main():
    # Our own ends of the connections, too.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    ARGS.connections = min(ARGS.connections, files[1] - 500)
    with Server(ARGS.thresherd, MODELS, "--threads", "1", "--log-level", "error") as server:
        answers_a_call(server)
        end = time.monotonic() + ARGS.minutes * 60
        with Load(server, max(4, int(ARGS.minutes * 60))) as load:
            round_of_faults(server, True)
            before = status(server)
            rounds = 1
            while rounds < 2 or time.monotonic() < end:
                round_of_faults(server, False)
                rounds += 1
                print(f"round {rounds}: {status(server)[0] >> 20} MiB, {status(server)[1]} threads", flush=True)
            calls = load.finish()
        after = status(server)
        print(f"{calls} calls of others were answered; memory {before[0] >> 20} -> {after[0] >> 20} MiB, "
              f"threads {before[1]} -> {after[1]}")
        assert after[0] <= before[0] + SPARE_MEMORY, "memory grows"
        assert after[1] <= before[1] + SPARE_THREADS, "threads grow"

        def connections():
            found = re.search(r"^thresher_grpc_connections (\d+)$", get(f"http://{server.http}/metrics")[1], re.MULTILINE)
            return found and int(found[1]) <= 1
        eventually(connections, "connections that are gone are closed")
        server.child.terminate()
        assert server.child.wait(PATIENCE) == 0, server.said(server.error)

    openssl = shutil.which("openssl")
    if openssl is None:
        print("skipped: TLS garbage needs openssl (Debian package openssl)")
        return
    with tempfile.TemporaryDirectory(prefix="thresher-") as directory:
        subprocess.run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                       cwd=directory, check=True, capture_output=True)
        with Server(ARGS.thresherd, {"sst2-mini": MODELS["sst2-mini"]}, "--threads", "1", "--tls-cert",
                    os.path.join(directory, "cert.pem"), "--tls-key", os.path.join(directory, "key.pem")) as server:
            tls_garbage(server, directory)
            server.child.terminate()
            assert server.child.wait(PATIENCE) == 0, server.said(server.error)
        print("ok: TLS garbage")


main()
