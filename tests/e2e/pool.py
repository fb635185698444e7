"""Three credentials of an API as one, under load: pool.py BEARERD [full]

The API allows each token a number of requests in an interval, and answers 429 beyond. 24 callers send one request after the
other, through a bearerd with one credential and, at the same time, through another with a pool of three. Then the API revokes
the token of one member and answers 429 to another for a while: 10 s, with `full` a minute. Ends with 1 if the pool gets less
than 2.8 times as much through, a caller gets anything but 200, or the API sees more than it allows.
"""

import asyncio
import base64
import collections
import os
import sys
import tempfile
import time

from loopback import Bearerd, Client, response, serve, token

BEARERD = os.path.abspath(sys.argv[1])
FULL = "full" in sys.argv
# How long the callers send undisturbed, and how long the API then throttles a member. The first is no multiple of the
# interval: each interval begins with a burst.
LIMIT, PER, LENGTH, THROTTLED = (300, 60.0, 150.0, 60) if FULL else (60, 3.0, 7.5, 10)
CALLERS = 24
GAIN = 2.8
MEMBERS = ["genesys-1", "genesys-2", "genesys-3"]


class Platform:
    """An authorization server and an API that counts the requests of each token in a sliding window."""

    def __init__(self):
        self.tokens = {}  # Of each client, the latest.
        self.issued = collections.Counter()
        self.windows = collections.defaultdict(collections.deque)
        self.most = 0
        self.answered = collections.Counter()
        self.throttled_until = {}
        self.refused = collections.Counter()

    async def start(self):
        self.token_port = await serve(self.issue)
        self.api_port = await serve(self.answer)

    def issue(self, headers, _):
        client = base64.b64decode(headers["authorization"].split()[1]).decode().split(":")[0]
        self.issued[client] += 1
        self.tokens[client] = f"{client}.{self.issued[client]}"
        return token(self.tokens[client])

    def revoke(self, client):
        self.tokens[client] = None

    def throttle(self, client):
        self.throttled_until[client] = time.monotonic() + THROTTLED

    def answer(self, headers, _):
        now = time.monotonic()
        presented = headers["authorization"].removeprefix("Bearer ")
        client = presented.split(".")[0]
        if self.tokens[client] != presented:
            self.refused["401"] += 1
            return response("401 Unauthorized", www_authenticate='Bearer error="invalid_token"')
        left = self.throttled_until.get(client, 0) - now
        if left > 0:
            self.refused["429 of the throttled token"] += 1
            return response("429 Too Many Requests", retry_after=int(left) + 1)
        window = self.windows[presented]
        while window and window[0] + PER <= now:
            window.popleft()
        if len(window) >= LIMIT:
            self.refused["429 beyond the limit"] += 1
            return response("429 Too Many Requests", retry_after=int(window[0] + PER - now) + 1)
        window.append(now)
        self.most = max(self.most, len(window))
        self.answered[client] += 1
        return response("200 OK")


def configuration(platform, members):
    credentials = "".join(
        f"""
[credentials.{name}]
token_url = "http://127.0.0.1:{platform.token_port}/oauth/token"
client_id = "{name}"
client_secret = "s"
api_quota = {{ requests = {LIMIT}, per = "{PER:g}s", wait = "{PER + 5:g}s" }}
"""
        for name in members
    )
    names = ", ".join(f'"{name}"' for name in members)
    pool = f"[pools.genesys]\ncredentials = [{names}]\n" if len(members) > 1 else ""
    return f"""
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
access = false
{credentials}
{pool}
[[routes]]
upstream = "http://127.0.0.1:{platform.api_port}"
credential = "{"genesys" if pool else members[0]}"
"""


class Run:
    """A bearerd before a platform, and callers that send one request after the other until they are to stop."""

    def __init__(self, folder, members):
        self.folder, self.members = os.path.join(folder, str(len(members))), members
        self.platform = Platform()
        self.statuses = collections.Counter()
        self.longest = 0.0
        self.is_over = False

    async def start(self):
        await self.platform.start()
        self.daemon = Bearerd(BEARERD, self.folder, configuration(self.platform, self.members))
        port = await self.daemon.start()
        while self.platform.issued.total() < len(self.members):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        self.callers = [asyncio.create_task(self.call(Client(port, PER + 30))) for _ in range(CALLERS)]

    async def call(self, client):
        requests = [
            (b"GET /api/v2/users/me HTTP/1.1\r\nhost: localhost\r\n", b""),
            (b"POST /api/v2/analytics/query HTTP/1.1\r\nhost: localhost\r\n", b"x" * 2000),
        ]
        number = 0
        while not self.is_over:
            started = time.monotonic()
            self.statuses[await client.request(*requests[number % 2])] += 1
            self.longest = max(self.longest, time.monotonic() - started)
            number += 1

    async def stop(self):
        """Leaves requests that wait for their turn: they have no status."""
        self.is_over = True
        for caller in self.callers:
            caller.cancel()
        await asyncio.gather(*self.callers, return_exceptions=True)
        await self.daemon.stop()

    def served(self):
        return self.statuses[200]


async def main():
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        one, pool = Run(folder, MEMBERS[:1]), Run(folder, MEMBERS)
        await asyncio.gather(one.start(), pool.start())
        await asyncio.sleep(LENGTH)
        alone, together = one.served(), pool.served()
        rate = together / alone
        print(f"{LIMIT} requests in {PER:g} s for a token; {CALLERS} callers for {LENGTH:g} s:")
        print(f"  one credential    {alone} requests")
        print(f"  pool of three     {together} requests, {rate:.2f} times as many")
        if rate < GAIN:
            wrong.append(f"the pool got {rate:.2f} times as much through, and not {GAIN} times")

        before = pool.platform.answered.copy()
        pool.longest = 0.0
        pool.platform.revoke(MEMBERS[0])
        pool.platform.throttle(MEMBERS[1])
        await asyncio.sleep(THROTTLED)
        during = pool.platform.answered - before
        # The throttled member serves again.
        await asyncio.sleep(PER + 1)
        after = pool.platform.answered - before - during
        await asyncio.gather(one.stop(), pool.stop())
        print(f"one token revoked, another throttled for {THROTTLED} s:")
        print(f"  meanwhile         {during.total()} requests: {by_member(during)}")
        print(f"  {PER + 1:g} s after that   {after.total()} requests: {by_member(after)}")
        print(f"  from the API      {dict(pool.platform.refused)}")
        print(f"  to the callers    {dict(pool.statuses)}; the longest took {pool.longest:.1f} s")
        print(f"  most in {PER:g} s      {pool.platform.most} for a token")

    for run in (one, pool):
        if set(run.statuses) != {200}:
            wrong.append(f"callers got {dict(run.statuses)}")
        if run.platform.most > LIMIT or run.platform.refused["429 beyond the limit"]:
            wrong.append(f"the API saw {run.platform.most} requests in {PER:g} s, and answered {dict(run.platform.refused)}")
    refused = pool.platform.refused
    for what in ("401", "429 of the throttled token"):
        # Requests that were under way: afterwards, the member is left alone.
        if not 0 < refused[what] <= CALLERS:
            wrong.append(f"the API answered {refused[what]} requests with {what}")
    if during[MEMBERS[1]]:
        wrong.append("the API served the throttled token")
    possible = 2 * LIMIT * int(THROTTLED / PER)
    if during.total() < 0.9 * possible:
        wrong.append(f"two members served {during.total()} of {possible} requests")
    if not all(after[name] for name in MEMBERS):
        wrong.append(f"afterwards: {by_member(after)}")
    if pool.platform.issued != {MEMBERS[0]: 2, MEMBERS[1]: 1, MEMBERS[2]: 1}:
        wrong.append(f"token requests: {dict(pool.platform.issued)}")
    for line in wrong:
        print(f"FAILED  {line}")
    return 1 if wrong else 0


def by_member(counts):
    return ", ".join(f"{name} {counts[name]}" for name in MEMBERS)


sys.exit(asyncio.run(main()))
