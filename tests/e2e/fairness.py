"""Callers that share what an API allows, with bearerd and without: fairness.py BEARERD [full] [--table FILE]

One caller sends 50 requests a second and three send one a second. The API behaves as Genesys Cloud: 300 requests a minute for
a token, `inin-ratelimit-*` in each answer, and a 429 with Retry-After beyond. At the same time, the same callers use another
such API directly. `full` takes five minutes; without it the API allows 75 requests in 5 s, and a run takes a quarter of a minute. Ends with 1 if a quiet caller loses a request, waits for too long, or the API sees too many.
"""

import asyncio
import collections
import os
import sys
import tempfile
import time

from loopback import Bearerd, Client, response, serve, token

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
        return await serve(self.answer)

    def answer(self, *_):
        now = time.monotonic()
        while self.window and self.window[0] + PER <= now:
            self.window.popleft()
        status, more = "200 OK", {}
        if len(self.window) >= LIMIT:
            self.rejected += 1
            wait = max(1, int(self.window[0] + PER - now + 0.999))
            status, more = "429 Too Many Requests", {"retry_after": wait}
        else:
            self.window.append(now)
            self.answered += 1
            self.most = max(self.most, len(self.window))
        reset = int(self.window[0] + PER - now) + 1
        limit = {"inin_ratelimit_count": len(self.window), "inin_ratelimit_allowed": LIMIT, "inin_ratelimit_reset": reset}
        return response(status, **limit, **more)


class Caller:
    """Sends requests at an even pace, whatever becomes of the earlier ones, over connections that are kept."""

    def __init__(self, name, address, port, begin):
        self.name, self.address, self.begin = name, address, begin
        self.client = Client(port, 30)
        self.waits, self.sent, self.lost = [], 0, 0

    async def request(self):
        self.sent += 1
        started = time.monotonic()
        status = await self.client.request(
            b"GET /api/v2/users/me HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer fairness\r\n"
            b"x-forwarded-for: %s\r\n" % self.address.encode()
        )
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
    token_port = await serve(lambda *_: token("fairness"))
    daemon = Bearerd(
        BEARERD,
        folder,
        f"""
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
""",
    )
    port = await daemon.start()
    await asyncio.sleep(0.5)
    callers = await crowd(port)
    await daemon.stop()
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
