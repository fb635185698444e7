"""The callers: wrk over HTTP/1.1, h2load over HTTP/2, and idle connections."""

import asyncio
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import time

from . import machine

KIB = 1024

WRK = """
wrk.method = "{method}"
{body}
function done(summary, latency, requests)
  local errors = summary.errors
  io.write("\\nREPORT ", string.format(
    '{{"requests":%d,"micros":%d,"rejected":%d,"broken":%d,"p50":%f,"p99":%f,"p999":%f}}\\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency:percentile(99.9) / 1000))
end
"""


class Failed(Exception):
    """Some requests failed; the text says how many."""


@dataclasses.dataclass(frozen=True)
class Load:
    """The requests of the callers and the number of connections."""

    connections: int = 64
    #: The size of a POST's body in bytes; a GET if absent.
    body: int = 0
    path: str = ""
    #: The streams of each HTTP/2 connection; HTTP/1.1 if absent.
    streams: int = 0

    def run(self, proxy, seconds, may_fail=False):
        """The numbers of good and failed requests, the rate per second, and percentiles in ms."""
        url = proxy.url.rstrip("/") + self.path if self.path else proxy.url
        report = self._h2load(proxy, url, seconds) if self.streams else self._wrk(proxy, url, seconds)
        bad = report["rejected"] + report["broken"]
        if not may_fail and (bad or report["requests"] == 0):
            said = "{requests} answers, {rejected} of them not 200; {broken} connections broke or timed out"
            raise Failed(said.format(**report))
        return report

    def _wrk(self, proxy, url, seconds):
        script = proxy.world.folder / "load.lua"
        body = f'wrk.body = string.rep("x", {self.body})' if self.body else ""
        script.write_text(WRK.format(method="POST" if self.body else "GET", body=body))
        command = [machine.tool("wrk"), "-t1", f"-c{self.connections}", f"-d{seconds}s", "--timeout", "20s", "-s",
                   script, url]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report = json.loads(re.search(r"^REPORT (.*)$", done.stdout, re.MULTILINE).group(1))
        return report | {"rate": report["requests"] * 1e6 / report["micros"]}

    def _h2load(self, proxy, url, seconds):
        log = proxy.world.folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = [machine.tool("h2load"), "-t1", f"-c{self.connections}", f"-m{self.streams}", f"-D{seconds}",
                   f"--log-file={log}", url]
        subprocess.run(command, check=True, capture_output=True, text=True)
        answers = [line.split("\t") for line in log.read_text().splitlines()]
        good = [int(micros) / 1000 for _, status, micros in answers if status == "200"]
        cuts = statistics.quantiles(good, n=1000) if len(good) > 1 else [0] * 999
        return {
            "requests": len(answers), "rejected": len(answers) - len(good), "broken": 0, "rate": len(good) / seconds,
            "p50": cuts[499], "p99": cuts[989], "p999": cuts[998],
        }


def at_once(proxy, count, path, size):
    """Sends one request over each of these new connections, all at once. Returns the durations in ms of the good answers."""
    async def one(begun):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=KIB * KIB)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        received = 0
        while piece := await reader.read(KIB * KIB):
            received += len(piece)
        writer.close()
        is_good = head.startswith(b"HTTP/1.1 200") and received == size
        return (time.monotonic() - begun) * 1e3 if is_good else None

    async def all_of_them():
        begun = time.monotonic()
        return await asyncio.gather(*(one(begun) for _ in range(count)), return_exceptions=True)

    return [took for took in asyncio.run(all_of_them()) if isinstance(took, float)]


def idle(proxy, count):
    """Opens connections, each of which carries one request and stays open."""
    held = []
    for _ in range(count):
        connection = proxy.connect()
        connection.request("GET", proxy.path)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            sys.exit(f"benches/compare: {proxy.name} answered {response.status}")
        held.append(connection)
    return held
