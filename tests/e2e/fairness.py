"""Callers that share what an API allows, with bearerd and without: fairness.py BEARERD [full] [--table FILE]

One caller sends 50 requests a second and three send one a second. The API behaves as Genesys Cloud: 300 requests a minute for
a token, `inin-ratelimit-*` in each answer, and a 429 with Retry-After beyond. At the same time, the same callers use another
such API directly. `full` takes five minutes; without it the API allows 75 requests in 5 s, and a run takes a quarter of a minute. Ends with 1 if a quiet caller loses a request, waits for too long, or the API sees too many.
"""

import asyncio
import collections
import os
import signal
import sys
import tempfile
import time

BEARERD = os.path.abspath(sys.argv[1])
FULL = "full" in sys.argv
TABLE = sys.argv[sys.argv.index("--table") + 1] if "--table" in sys.argv else None
LIMIT, PER, LENGTH = (300, 60.0, 300.0) if FULL else (75, 5.0, 15.0)
# The caller, its requests a second, and when it begins.
LOUD = ("loud", 50.0, 0.0)
QUIET = [("quiet-1", 1.0, 0.25), ("quiet-2", 1.0, 0.5), ("quiet-3", 1.0, 1.0)]
LONGEST_WAIT = 1.0


class Api:
    """Counts requests of a token in a sliding window."""

    def __init__(self):
        self.window = collections.deque()
        self.most = 0
        self.answered = 0
        self.rejected = 0

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(self.answer())
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self):
        now = time.monotonic()
        while self.window and self.window[0] + PER <= now:
            self.window.popleft()
        status, fields = "200 OK", ""
        if len(self.window) >= LIMIT:
            self.rejected += 1
            wait = max(1, int(self.window[0] + PER - now + 0.999))
            status, fields = "429 Too Many Requests", f"retry-after: {wait}\r\n"
        else:
            self.window.append(now)
            self.answered += 1
            self.most = max(self.most, len(self.window))
        reset = int(self.window[0] + PER - now) + 1
        return (
            f"HTTP/1.1 {status}\r\n{fields}inin-ratelimit-count: {len(self.window)}\r\n"
            f"inin-ratelimit-allowed: {LIMIT}\r\ninin-ratelimit-reset: {reset}\r\ncontent-length: 2\r\n\r\nok"
        ).encode()


async def issue(reader, writer):
    """A token endpoint."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            body = b'{"access_token":"fairness","token_type":"bearer","expires_in":86399}'
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
        pass
    finally:
        writer.close()


class Caller:
    """Sends requests at an even pace, whatever becomes of the earlier ones, over connections that are kept."""

    def __init__(self, name, address, port, begin):
        self.name, self.address, self.port, self.begin = name, address, port, begin
        self.idle = []
        self.waits, self.sent, self.lost = [], 0, 0

    async def request(self):
        self.sent += 1
        started = time.monotonic()
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(
                b"GET /api/v2/users/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer fairness\r\n"
                b"x-forwarded-for: %s\r\n\r\n" % self.address.encode()
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            status = int(head[9:12])
            if b"connection: close" in head.lower():
                writer.close()
            else:
                self.idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            status = 0
        self.waits.append(time.monotonic() - started)
        self.lost += status != 200

    async def run(self, rate, end):
        pending = set()
        number = 0
        while (at := self.begin + number / rate) < end:
            await asyncio.sleep(max(0, at - time.monotonic()))
            task = asyncio.create_task(self.request())
            pending.add(task)
            task.add_done_callback(pending.discard)
            number += 1
        if pending:
            await asyncio.wait(pending)

    def percentile(self, percent):
        waits = sorted(self.waits)
        return waits[min(len(waits) - 1, len(waits) * percent // 100)]


async def crowd(port):
    """All callers at once; returns them."""
    start = time.monotonic() + 0.1
    callers = []
    runs = []
    for number, (name, rate, begin) in enumerate([LOUD, *QUIET]):
        caller = Caller(name, f"192.0.2.{number + 1}", port, start + begin)
        callers.append(caller)
        runs.append(caller.run(rate, start + LENGTH))
    await asyncio.gather(*runs)
    return callers


async def through_bearerd(api_port, folder):
    token_server = await asyncio.start_server(issue, "127.0.0.1", 0)
    token_port = token_server.sockets[0].getsockname()[1]
    path = os.path.join(folder, "proxy.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"""
[server]
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1/32"]
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
access = false
[credentials.genesys]
token_url = "http://127.0.0.1:{token_port}/oauth/token"
client_id = "i"
client_secret = "s"
api_quota = {{ requests = {LIMIT}, per = "{PER:g}s" }}
[[routes]]
upstream = "http://127.0.0.1:{api_port}"
credential = "genesys"
""")
    daemon = await asyncio.create_subprocess_exec(
        BEARERD, "run", "-c", path, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    port = None
    while port is None:
        line = await daemon.stderr.readline()
        assert line, "bearerd did not start"
        if b'"message":"listening"' in line.replace(b" ", b""):
            port = int(line.split(b'"address":"')[1].split(b'"')[0].rsplit(b":", 1)[1])

    async def drain():
        while await daemon.stderr.readline():
            pass

    draining = asyncio.create_task(drain())
    await asyncio.sleep(0.5)
    callers = await crowd(port)
    daemon.send_signal(signal.SIGTERM)
    await daemon.wait()
    await draining
    token_server.close()
    return callers


def rows(what, callers, api):
    for caller in callers:
        yield (
            what,
            caller.name,
            str(caller.sent),
            str(caller.sent - caller.lost),
            str(caller.lost),
            f"{caller.percentile(50) * 1000:.0f}",
            f"{caller.percentile(99) * 1000:.0f}",
            str(api.most),
            str(api.rejected),
        )


async def main():
    table = [("", "caller", "sent", "served", "lost", "median, ms", "99 %, ms", f"most in {PER:g} s", "429s of the API")]
    direct_api, api = Api(), Api()
    with tempfile.TemporaryDirectory() as folder:
        direct, callers = await asyncio.gather(
            crowd(await direct_api.start()), through_bearerd(await api.start(), folder)
        )
    table += rows("direct", direct, direct_api)
    table += rows("bearerd", callers, api)
    text = [" | ".join(row) for row in table]
    text.insert(1, " | ".join("---" for _ in table[0]))
    text = "".join(f"| {line} |\n" for line in text)
    print(text, end="")
    if TABLE:
        with open(TABLE, "w", encoding="utf-8") as file:
            file.write(text)

    wrong = []
    if api.most > LIMIT or api.rejected:
        wrong.append(f"the API saw {api.most} requests in {PER:g} s and answered 429 {api.rejected} times")
    for caller in callers[1:]:
        if caller.lost or caller.percentile(99) >= LONGEST_WAIT:
            wrong.append(f"{caller.name} lost {caller.lost} and waited {caller.percentile(99):.2f} s")
    possible = LIMIT * LENGTH / PER
    # In the first interval, what the quiet callers may still use of their shares is kept for them.
    if api.answered < (0.93 if FULL else 0.75) * possible:
        wrong.append(f"the API was used for {api.answered} of {possible:.0f} requests")
    for line in wrong:
        print(f"FAILED  {line}")
    return 1 if wrong else 0


sys.exit(asyncio.run(main()))
