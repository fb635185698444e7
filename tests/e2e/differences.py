#!/usr/bin/env python3
"""Sends the same inputs through bearerd, nginx and HAProxy, and compares the results with docs/understand/http.md.

    tests/e2e/differences.py PATH_OF_BEARERD

Prints the table as Markdown. The exit code is 1 if a result of bearerd differs from the one in the documentation, or a row
is missing there. Differences of nginx and HAProxy, which may have other versions than the table's, are only listed. Both
have their default configuration, besides what is needed to pass a request, a WebSocket and HTTP/2.
"""

import contextlib
import os
import pathlib
import re
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/understand/http.md"
PROXIES = ("bearerd", "nginx", "HAProxy")
#: How long an answer or an end may take, in seconds.
PATIENCE = 4
#: Whatever comes within this time comes at once.
AT_ONCE = 1.5

PLAIN = b"HTTP/1.1 200 OK\r\nx-api: 1\r\ncontent-length: 5\r\n\r\nhello"
SWITCHED = (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
HANDSHAKE = (b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
             b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n")


# ---- The API


class Api(socketserver.ThreadingTCPServer):
    """Answers a request of `/NAME` with the bytes, or the behaviour, of that name, and every other one with PLAIN."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answers):
        self.answers = answers
        #: When a connection with a request of that name ended, by proxy and name.
        self.ended = {}
        super().__init__(("127.0.0.1", 0), Connection)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        wire, is_first = Wire(self.request), True
        with contextlib.suppress(OSError, EOFError):
            while True:
                request = Message(wire.head())
                if b"100-continue" in request.field(b"expect"):
                    self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                wire.body(request, is_request=True)
                name = request.line.split(b" ")[1].split(b"?")[0].rpartition(b"/")[2].decode("latin-1")
                answer = self.server.answers.get(name, PLAIN)
                if callable(answer):
                    answer = answer(self, request, is_first)
                    if answer is None:
                        return
                self.request.sendall(answer)
                if b"connection: close" in answer or b"HTTP/1.0" in answer:
                    return
                is_first = False

    def note_end(self, request, wait=PATIENCE):
        """Waits for the end of the connection, and notes when it came."""
        self.request.settimeout(wait)
        with contextlib.suppress(OSError):
            while self.request.recv(65536):
                pass
        self.server.ended[request.field(b"x-input")] = time.monotonic()

    def reset(self):
        reset(self.request)


def reset(stream):
    """Closes a connection with RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


class Message:
    """The head of a message."""

    def __init__(self, head):
        self.line, *lines = head.rstrip(b"\r\n").split(b"\n")
        self.line = self.line.rstrip(b"\r")
        self.fields = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines if b":" in line]

    def field(self, name):
        return b", ".join(value for field, value in self.fields if field.lower() == name)

    @property
    def status(self):
        return int(self.line.split(b" ")[1])


class Wire:
    """Reads messages from a socket."""

    def __init__(self, stream):
        self.stream, self.bytes = stream, b""

    def more(self):
        received = self.stream.recv(65536)
        if not received:
            raise EOFError
        self.bytes += received

    def take(self, length):
        while len(self.bytes) < length:
            self.more()
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken

    def until(self, end):
        while end not in self.bytes:
            self.more()
        return self.take(self.bytes.index(end) + len(end))

    def head(self):
        while not self.bytes.lstrip(b"\r\n"):
            self.bytes = b""
            self.more()
        self.bytes = self.bytes.lstrip(b"\r\n")
        return self.until(b"\r\n\r\n")

    def body(self, message, is_request=False):
        if b"chunked" in message.field(b"transfer-encoding"):
            body = b""
            while True:
                size = int(self.until(b"\r\n").split(b";")[0], 16)
                piece = self.take(size + 2)[:-2] if size else b""
                if not size:
                    while self.until(b"\r\n") != b"\r\n":
                        pass
                    return body
                body += piece
        if message.field(b"content-length"):
            return self.take(int(message.field(b"content-length").split(b",")[0]))
        if is_request or message.status in (101, 204, 304):
            return b""
        with contextlib.suppress(EOFError):
            while True:
                self.more()
        return self.take(len(self.bytes))


# ---- What is sent, and what came of it


class Proxy:
    """The addresses of a running proxy: with HTTP/1.1, with HTTP/2 in clear text, and with TLS."""

    def __init__(self, name, ports, api):
        self.name, (self.http1, self.http2, self.tls), self.api = name, ports, api

    def connect(self, port=None):
        stream = socket.create_connection(("127.0.0.1", port or self.http1), timeout=PATIENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream

    def mark(self, name):
        return f"{self.name} {name}".encode()


def outcome(wire, expected=b"hello"):
    """What a caller is told: `passed` for the whole answer of the API."""
    interim = ""
    try:
        while True:
            head = Message(wire.head())
            if not 100 <= head.status < 200 or head.status == 101:
                break
            interim += f"{head.status}, "
    except EOFError:
        return interim + "closed"
    except TimeoutError:
        return interim + "no answer"
    except OSError:
        return interim + "reset"
    if not head.field(b"x-api"):
        return f"{interim}{head.status}"
    try:
        body = wire.body(head)
    except (EOFError, OSError, ValueError):
        return f"{interim}cut"
    return interim + ("passed" if body == expected else "another body")


def ask(proxy, request, expected=b"hello"):
    """One request over a connection of its own."""
    with proxy.connect() as stream:
        with contextlib.suppress(ConnectionError):
            stream.sendall(request)
        return outcome(Wire(stream), expected)


def get(target, fields=b"", method=b"GET", version=b"HTTP/1.1", host=b"host: localhost\r\n"):
    return method + b" " + target + b" " + version + b"\r\n" + host + fields + b"\r\n"


def sends(*arguments, **more):
    """A row: this request."""
    return lambda proxy: ask(proxy, get(*arguments, **more))


def posts(fields, body, expected=b"hello"):
    return lambda proxy: ask(proxy, get(b"/x", fields, method=b"POST") + body, expected)


ANSWERS = {}


def answers(name, answer, expected=b"hello", then=None):
    """A row: a GET that the API answers so."""
    ANSWERS[name] = answer
    return then or (lambda proxy: ask(proxy, get(b"/" + name.encode()), expected))


def poisoned(proxy):
    """A 204 with a body, and the next request on the same connection."""
    with proxy.connect() as stream:
        wire, results = Wire(stream), []
        for path in (b"/no-content", b"/x"):
            with contextlib.suppress(ConnectionError):
                stream.sendall(get(path))
            try:
                head = Message(wire.head())
                body = wire.body(head)
                is_good = (head.status, body) in ((204, b""), (200, b"hello"))
                results.append(str(head.status) if is_good else f"{head.status} with {body!r}")
            except (EOFError, OSError, ValueError, IndexError):
                results.append("broken")
                break
        return ", then ".join(results)


def closes_reused(connection, request, is_first):
    """Answers the first request of a connection; closes at the second."""
    return PLAIN if is_first else None


def reused(method):
    """A dozen requests to an API that closes a connection when it is used again."""
    def row(proxy):
        with proxy.connect() as first:
            wire, results, stream = Wire(first), [], first
            for _ in range(12):
                with contextlib.suppress(ConnectionError):
                    stream.sendall(get(b"/reused", b"content-length: 0\r\n", method=method))
                result = outcome(wire)
                results.append(result)
                if result != "passed":
                    stream.close()
                    stream = proxy.connect()
                    wire = Wire(stream)
            stream.close()
        failed = sorted({result for result in results if result != "passed"})
        return "all passed" if not failed else "some: " + ", ".join(failed)
    return row


def keeps_http1_0(proxy):
    with proxy.connect() as stream:
        wire = Wire(stream)
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                stream.sendall(get(b"/x", b"connection: keep-alive\r\n", version=b"HTTP/1.0"))
            result = outcome(wire)
            if result != "passed":
                return "the connection is closed"
        return "the connection is kept"


def waits(connection, request, is_first):
    connection.note_end(request)


def leaves_after_stray_bytes(proxy):
    """A caller that leaves while the API is silent, with a CRLF behind the request."""
    mark = proxy.mark("stray")
    with proxy.connect() as stream:
        stream.sendall(get(b"/silent", b"x-input: " + mark + b"\r\n") + b"\r\n")
        time.sleep(0.5)
    return noticed(proxy, mark, time.monotonic())


def noticed(proxy, mark, since):
    """When the API's connection ended."""
    while mark not in proxy.api.ended and time.monotonic() < since + PATIENCE + 2:
        time.sleep(0.02)
    ended = proxy.api.ended.get(mark)
    return "the API is told at once" if ended and ended - since < AT_ONCE else "the API is not told"


def switches(connection, request, is_first):
    """Switches to WebSocket; then resets the connection, or waits for its end."""
    connection.request.sendall(SWITCHED)
    if request.field(b"x-input").endswith(b"websocket"):
        return connection.note_end(request)
    time.sleep(0.3)
    return connection.reset()


def websocket(proxy, mark):
    stream = proxy.connect()
    wire = Wire(stream)
    stream.sendall(get(b"/socket", HANDSHAKE + b"x-input: " + mark + b"\r\n"))
    head = Message(wire.head())
    if head.status != 101:
        raise EOFError(f"no WebSocket: {head.line}")
    return stream


def caller_breaks_off(proxy):
    mark = proxy.mark("websocket")
    stream = websocket(proxy, mark)
    time.sleep(0.3)
    reset(stream)
    return noticed(proxy, mark, time.monotonic())


def api_breaks_off(proxy):
    with websocket(proxy, proxy.mark("reset")) as stream:
        began = time.monotonic()
        try:
            while stream.recv(1000):
                pass
        except TimeoutError:
            return "the caller is not told"
        except OSError:
            pass
        return "the caller is told at once" if time.monotonic() - began < AT_ONCE else "the caller is told late"


# ---- HTTP/2, by hand: literal fields without indexing (RFC 7541 §6.2.2)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
#: The entries of the static table that stand for a whole `:status` (RFC 7541, appendix A).
STATUSES = {0x88: "200", 0x89: "204", 0x8A: "206", 0x8B: "304", 0x8C: "400", 0x8D: "404", 0x8E: "500"}


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def fields_block(fields):
    block = b""
    for name, value in fields:
        block += b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value
    return block


def http2(fields, body=None, is_delayed=False):
    """A row: this request over HTTP/2. The answer is told by its header blocks: how many, and the status of the last one."""
    def row(proxy):
        with proxy.connect(proxy.http2) as stream:
            head = frame(HEADERS, 4 if body else 5, 1, fields_block(fields))
            stream.sendall(PREFACE + frame(SETTINGS, 0, 0) + head)
            if body and not is_delayed:
                stream.sendall(frame(DATA, 1, 1, body))
            blocks, received, wire = [], b"", Wire(stream)
            try:
                while True:
                    length, kind, flags, number = struct.unpack(">IBBI", b"\0" + wire.take(9))
                    payload = wire.take(length)
                    if kind == SETTINGS and not flags & 1:
                        stream.sendall(frame(SETTINGS, 1, 0))
                    elif kind == RST_STREAM:
                        return "the stream is reset"
                    elif kind == GOAWAY:
                        return "the connection is closed"
                    elif kind == HEADERS and number == 1:
                        blocks.append(payload)
                        if len(blocks) == 1 and body and is_delayed:
                            stream.sendall(frame(DATA, 1, 1, body))
                    elif kind == DATA:
                        received += payload
                    if kind in (DATA, HEADERS) and number == 1 and flags & 1:
                        break
            except EOFError:
                return "the connection is closed"
            except TimeoutError:
                return "no answer"
            status = next((STATUSES[byte] for byte in blocks[-1][:4] if byte in STATUSES), "another status")
            interim = "interim response, " * (len(blocks) - 1)
            return interim + ("passed" if status == "200" and received == b"hello" else status)
    return row


def agreed(protocol, sent, is_answer):
    """A row: TLS with this protocol agreed on, and these bytes."""
    def row(proxy):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols([protocol])
        try:
            with context.wrap_socket(proxy.connect(proxy.tls), server_hostname="localhost") as stream:
                if stream.selected_alpn_protocol() != protocol:
                    return f"{protocol} is not agreed on"
                stream.sendall(sent)
                received = stream.recv(65536)
                while received and len(received) < 30:
                    more = stream.recv(65536)
                    if not more:
                        break
                    received += more
        except TimeoutError:
            return "no answer"
        except OSError:
            return "refused"
        return "answered" if is_answer(received) else "refused"
    return row


def extended_chunks(count):
    return b"".join(b"1;" + b"e" * 998 + b"\r\nx\r\n" for _ in range(count)) + b"0\r\n\r\n"


def head(*fields, line=b"HTTP/1.1 200 OK"):
    return b"\r\n".join((line, b"x-api: 1", *fields)) + b"\r\n\r\n"


CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"
H2_GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/x")]
H2_POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"localhost")]

#: The rows of the table in their order: an input, and a function that sends it through a proxy.
ROWS = [
    ("response: `Content-Length: 3` and chunks with 5 bytes",
     answers("both", head(b"content-length: 3", b"transfer-encoding: chunked") + CHUNKED)),
    ("response: `Content-Length: 5, 5`", answers("list", head(b"content-length: 5, 5") + b"hello")),
    ("response: `Content-Length: 5` twice",
     answers("twice", head(b"content-length: 5", b"content-length: 5") + b"hello")),
    ("response: `Content-Length: 5` and `6`",
     answers("unequal", head(b"content-length: 5", b"content-length: 6") + b"hello!")),
    ("response: `Transfer-Encoding: gzip, chunked`",
     answers("gzip", head(b"transfer-encoding: gzip, chunked") + CHUNKED)),
    ("response: 204 with a body, then another request",
     answers("no-content", head(b"content-length: 5", line=b"HTTP/1.1 204 No Content") + b"hello", then=poisoned)),
    ("response: chunk extensions of 10 KiB",
     answers("extended", head(b"transfer-encoding: chunked") + extended_chunks(10), b"x" * 10)),
    ("response: chunk extensions of 20 KiB",
     answers("overextended", head(b"transfer-encoding: chunked") + extended_chunks(20), b"x" * 20)),
    ("response: chunks in HTTP/1.0",
     answers("old", head(b"transfer-encoding: chunked", line=b"HTTP/1.0 200 OK") + CHUNKED)),
    ("response: 120 fields",
     answers("fields", head(*(b"x-%d: 1" % number for number in range(119)), b"content-length: 5") + b"hello")),
    ("response: a control character in a field",
     answers("control", head(b"x-control: a\x01b", b"content-length: 5") + b"hello")),
    ("response: ends before its `Content-Length`",
     answers("short", head(b"content-length: 10", b"connection: close") + b"hello")),
    ("response: ends before its last chunk",
     answers("unended", head(b"transfer-encoding: chunked", b"connection: close") + b"5\r\nhello\r\n")),
    ("response: 103 before 200, to HTTP/1.1",
     answers("hints", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + PLAIN)),
    ("response: 103 before 200, to HTTP/2", http2([*H2_GET[:2], (b":path", b"/hints"), (b":authority", b"localhost")])),
    ("response: 101 that nobody asked for", answers("unasked", SWITCHED)),
    ("the API closes reused connections, GET", answers("reused", closes_reused, then=reused(b"GET"))),
    ("the API closes reused connections, POST", reused(b"POST")),
    ("HTTP/2: `host` without `:authority`", http2([*H2_GET, (b"host", b"localhost")])),
    ("HTTP/2: `Expect: 100-continue`",
     http2([*H2_POST, (b"expect", b"100-continue"), (b"content-length", b"5")], b"hello", is_delayed=True)),
    ("ALPN `h2`, and HTTP/1.1 is sent",
     agreed("h2", get(b"/x"), lambda received: received.startswith(b"HTTP/1.1"))),
    ("ALPN `http/1.1`, and HTTP/2 is sent",
     agreed("http/1.1", PREFACE + frame(SETTINGS, 0, 0), lambda received: received[3:4] == bytes((SETTINGS,)))),
    ("`{}^\\|` and a grave accent in a query", sends(b"/x?a={}^|`")),
    ("`\"` in a query", sends(b'/x?a="b')),
    ("`<` in a query", sends(b"/x?a=<b")),
    ("Latin-1 in a query", sends(b"/x?a=\xfc")),
    ("UTF-8 in a query", sends("/x?a=\u00fc".encode())),
    ("UTF-8 in a path", sends("/\u00fc".encode())),
    ("`/a/../b`", sends(b"/a/../b")),
    ("`%e0%80%af` (an overlong `/`)", sends(b"/a%e0%80%afb")),
    ("a target of 7,000 bytes", sends(b"/x?" + b"a" * 7000)),
    ("a target of 60,000 bytes", sends(b"/x?" + b"a" * 60_000)),
    ("a target of 66,000 bytes", sends(b"/x?" + b"a" * 66_000)),
    ("120 fields", sends(b"/x", b"".join(b"x-%d: 1\r\n" % number for number in range(120)))),
    ("`Host: localhost.`", sends(b"/x", host=b"host: localhost.\r\n")),
    ("HTTP/1.1 without `Host`", sends(b"/x", host=b"")),
    ("two `Host`", sends(b"/x", b"host: localhost\r\n")),
    ("`OPTIONS / HTTP/1.0` without `Host`", sends(b"/", host=b"", method=b"OPTIONS", version=b"HTTP/1.0")),
    ("`OPTIONS *`", sends(b"*", method=b"OPTIONS")),
    ("`TRACE`", sends(b"/x", method=b"TRACE")),
    ("`TRACK`", sends(b"/x", method=b"TRACK")),
    ("`trace`", sends(b"/x", method=b"trace")),
    ("`CONNECT`", sends(b"localhost:80", method=b"CONNECT")),
    ("a method of 40 characters", sends(b"/x", method=b"M" * 40)),
    ("`X-HTTP-Method-Override: DELETE`",
     posts(b"x-http-method-override: DELETE\r\ncontent-length: 0\r\n", b"")),
    ("`Content_Length: 5`", sends(b"/x", b"content_length: 5\r\n")),
    ("`Expect:` (empty)", sends(b"/x", b"expect:\r\n")),
    ("`Expect: x`", sends(b"/x", b"expect: x\r\n")),
    ("`Content-Length: 5` twice", posts(b"content-length: 5\r\ncontent-length: 5\r\n", b"hello")),
    ("`Content-Length: 5, 5`", posts(b"content-length: 5, 5\r\n", b"hello")),
    ("`Content-Length` and `Transfer-Encoding`", posts(b"content-length: 5\r\ntransfer-encoding: chunked\r\n", CHUNKED)),
    ("`Transfer-Encoding: gzip, chunked`", posts(b"transfer-encoding: gzip, chunked\r\n", CHUNKED)),
    ("chunk extensions of 10 KiB", posts(b"transfer-encoding: chunked\r\n", extended_chunks(10))),
    ("chunk extensions of 20 KiB", posts(b"transfer-encoding: chunked\r\n", extended_chunks(20))),
    ("HTTP/1.0 with `Connection: keep-alive`", keeps_http1_0),
    ("a caller leaves after a stray CRLF", answers("silent", waits, then=leaves_after_stray_bytes)),
    ("WebSocket: the caller resets", answers("socket", switches, then=caller_breaks_off)),
    ("WebSocket: the API resets", api_breaks_off),
]


# ---- The proxies

BEARERD = """
[server]
listen = ["127.0.0.1:{ports[0]}"]
[admin]
listen = "127.0.0.1:{admin}"
[log]
access = false
[[routes]]
upstream = "http://127.0.0.1:{api}"
credential = "none"
upgrade = ["websocket"]
"""

BEARERD_TLS = """
[server]
listen = "127.0.0.1:{ports[2]}"
[server.tls]
certificate = "server.pem"
private_key = "server.key"
[admin]
listen = "127.0.0.1:{admin}"
[[routes]]
upstream = "http://127.0.0.1:{api}"
credential = "none"
"""

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2; fastcgi_temp_path {folder}/n3;
  uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
  map $http_upgrade $connection_field {{ default upgrade; '' ''; }}
  upstream api {{ server 127.0.0.1:{api}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{ports[0]}; listen 127.0.0.1:{ports[1]} http2; listen 127.0.0.1:{ports[2]} ssl http2;
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    location / {{
      proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Host localhost;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_field;
    }}
  }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 30s
frontend callers
    bind 127.0.0.1:{ports[0]}
    bind 127.0.0.1:{ports[1]}
    bind 127.0.0.1:{ports[2]} ssl crt {folder}/both.pem alpn h2,http/1.1
    default_backend api
backend api
    server api 127.0.0.1:{api}
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def tool(name):
    for folder in [*os.environ["PATH"].split(os.pathsep), "/usr/sbin"]:
        if os.access(path := pathlib.Path(folder) / name, os.X_OK):
            return path
    sys.exit(f"missing peer: {name}")


def commands(bearerd, folder, ports, api):
    """The commands of all proxies; bearerd has two, with TLS and without."""
    admin = free_ports(2)
    texts = {"bearerd.toml": (BEARERD, "bearerd", admin[0]), "bearerd-tls.toml": (BEARERD_TLS, "bearerd", admin[1]),
             "nginx.conf": (NGINX, "nginx", 0), "haproxy.cfg": (HAPROXY, "HAProxy", 0)}
    for file, (text, name, admin) in texts.items():
        (folder / file).write_text(text.format(ports=ports[name], api=api, folder=folder, admin=admin))
    return [
        [bearerd, "run", "-c", folder / "bearerd.toml"],
        [bearerd, "run", "-c", folder / "bearerd-tls.toml"],
        [tool("nginx"), "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"],
        [tool("haproxy"), "-db", "-f", folder / "haproxy.cfg"],
    ]


def await_port(port, process, log):
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    sys.exit(f"{process.args[0]} does not listen:\n{log.read_text(errors='replace')}")


def results_of(proxy, results):
    """The results of all rows; the slow ones run beside each other."""
    def one(name, row):
        try:
            results[name] = row(proxy)
        except (OSError, EOFError, ValueError, IndexError) as error:
            results[name] = f"failed: {error!r}"

    threads = [threading.Thread(target=one, args=row) for row in ROWS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def run(bearerd):
    """The results by proxy and row."""
    results = {name: {} for name in PROXIES}
    with tempfile.TemporaryDirectory(prefix="bearerd-differences-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        subprocess.run([ROOT / "certs/make", folder], check=True, capture_output=True)
        both = (folder / "server.pem").read_text() + (folder / "server.key").read_text()
        (folder / "both.pem").write_text(both)
        api = Api(ANSWERS)
        ports = {name: free_ports(3) for name in PROXIES}
        # bearerd recognizes HTTP/2 by its first bytes.
        ports["bearerd"][1] = ports["bearerd"][0]
        log = folder / "log"
        started = []
        for command in commands(bearerd, folder, ports, api.server_address[1]):
            with log.open("ab") as output:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGKILL)
            started.append(process)
        first = [ports["bearerd"][0], ports["bearerd"][2], ports["nginx"][0], ports["HAProxy"][0]]
        for process, port in zip(started, first):
            await_port(port, process, log)
        proxies = [Proxy(name, ports[name], api) for name in PROXIES]
        threads = [threading.Thread(target=results_of, args=(proxy, results[proxy.name])) for proxy in proxies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def documented():
    """The rows of the table in the documentation, by input."""
    rows = {}
    is_inside = False
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("| input | bearerd |"):
            is_inside = True
        elif not line.startswith("|"):
            is_inside = False
        elif is_inside and not line.startswith("| ---"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[cells[0]] = dict(zip(PROXIES, cells[1:]))
    return rows


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    results = run(pathlib.Path(sys.argv[1]).resolve())
    print("| input | " + " | ".join(PROXIES) + " |\n| --- | --- | --- | --- |")
    for name, _ in ROWS:
        print(f"| {name} | " + " | ".join(results[proxy][name] for proxy in PROXIES) + " |")
    table, is_wrong = documented(), False
    for name, _ in ROWS:
        for proxy in PROXIES:
            said, found = table.get(name, {}).get(proxy), results[proxy][name]
            if said != found:
                is_wrong |= proxy == "bearerd"
                print(f"{proxy}, {name}: {found}; the documentation says {said}", file=sys.stderr)
    for name in table.keys() - {name for name, _ in ROWS}:
        is_wrong = True
        print(f"the documentation has a row that is not tried: {name}", file=sys.stderr)
    sys.exit(1 if is_wrong else 0)


if __name__ == "__main__":
    main()
