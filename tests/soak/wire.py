"""Just enough HTTP/2 and Protobuf to write a gRPC call by hand, and to write it wrongly."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    names = {"initial_window_size": INITIAL_WINDOW_SIZE}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", names[name], value) for name, value in values.items()))


def integer(value, prefix):
    """HPACK's, in the low `prefix` bits of a first byte that is otherwise 0."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([value])
    out = [most]
    value -= most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def header_block(path, extra=()):
    """Literals that no table remembers."""
    headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
               ("content-type", "application/grpc"), ("te", "trailers"), *extra]
    return b"".join(b"\0" + integer(len(name), 7) + name.encode() + integer(len(value), 7) + value.encode()
                    for name, value in headers)


def varint(value):
    out = []
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def field(number, value):
    """A Protobuf field: a string, bytes of a message, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(body):
    """With gRPC's prefix."""
    return b"\0" + struct.pack(">I", len(body)) + body


CLASSIFY = "/thresher.v1.Thresher/Classify"
GENERATE = "/thresher.v1.Thresher/Generate"


def classify(text="a gripping film", model="sst2-mini"):
    return message(field(1, field(1, model)) + field(2, field(1, text)))


def generate(model, max_tokens):
    """Goes on from token 1, past every end of text."""
    return message(field(1, field(1, model)) + field(2, field(3, bytes([1]))) + field(4, max_tokens) + field(8, 1))


class Connection:
    """A socket, and what came from it as frames."""

    def __init__(self, address, timeout=240):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *parts):
        self.socket.sendall(b"".join(parts))

    def trickle(self, data):
        """Byte by byte, each in a packet of its own."""
        for at in range(len(data)):
            self.socket.sendall(data[at:at + 1])

    def reset(self):
        """Hangs up without a farewell: the peer sees ECONNRESET."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read_frame(self):
        """(kind, flags, stream, payload); None at the end."""
        while len(self.unread) < 9 or len(self.unread) < 9 + int.from_bytes(self.unread[:3], "big"):
            try:
                block = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not block:
                return None
            self.unread += block
        size = int.from_bytes(self.unread[:3], "big")
        kind, flags = self.unread[3], self.unread[4]
        stream = int.from_bytes(self.unread[5:9], "big") & 0x7fffffff
        payload = self.unread[9:9 + size]
        self.unread = self.unread[9 + size:]
        return kind, flags, stream, payload

    def answer(self, stream):
        """The bytes of the answer's messages; None if there is none, as an error has none."""
        data = b""
        while True:
            got = self.read_frame()
            if got is None:
                return None
            kind, flags, at, payload = got
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
            if kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            if kind == GOAWAY:
                return None
            if at != stream:
                continue
            if kind == DATA:
                data += payload
            if kind == RST_STREAM or kind == HEADERS and flags & END_STREAM:
                return data or None

    def await_end(self):
        while self.read_frame() is not None:
            pass
