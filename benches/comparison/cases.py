"""The cases: their loads, proxies and figures."""

import contextlib
import dataclasses
import shutil
import statistics
import subprocess
import threading
import time

from . import load, machine
from .load import Load
from .proxies import Proxy, Variant
from .world import SIZES

KIB = 1024
#: The duration of a thousand TLS handshakes.
WARM_UP_SECONDS = 2
IDLE_SECONDS = 15
#: As long as the allocator keeps memory that is not used.
REST_SECONDS = 12
#: The first requests of a crowd wait for connections to the upstream; so long, they are fewer than a hundredth.
CROWD_SECONDS = 8
CROWD = 1000
COLD_CONNECTIONS = 250
IDLE_CONNECTIONS = 1000
ALL_PEERS = ("nginx", "haproxy", "envoy", "bearerd", "bearerd-h2")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the command line."""

    rounds: int
    seconds: int
    connections: tuple
    peers: tuple


@dataclasses.dataclass
class Result:
    """The figures of each proxy by name, and the proxies that were left out, with the reasons."""

    case: str
    title: str
    proxies: dict = dataclasses.field(default_factory=dict)
    ratios: list = dataclasses.field(default_factory=list)
    skipped: list = dataclasses.field(default_factory=list)
    #: The proxies that failed requests, with the failures.
    failed: dict = dataclasses.field(default_factory=dict)
    rounds: dict = dataclasses.field(default_factory=dict)


def variants(*peers, **special):
    """These proxies with the case's settings; `bearerd-h2` is bearerd with HTTP/2 to the upstream."""
    return [
        Variant("bearerd", peer, upstream_http2=True, **special) if peer == "bearerd-h2" else Variant(peer, **special)
        for peer in peers
    ]


@contextlib.contextmanager
def running(world, wanted, options, result):
    """Starts the selected proxies and yields those that answer."""
    with contextlib.ExitStack() as stack:
        proxies = []
        for variant in wanted:
            if (variant.name if variant.name in ALL_PEERS else variant.peer) not in options.peers:
                continue
            try:
                proxies.append(stack.enter_context(Proxy(world, variant)))
            except machine.Missing as error:
                result.skipped.append(f"{variant.name}: {error}")
        yield proxies


def one_round(proxy, what, seconds):
    """The figures of one load on one proxy."""
    before = machine.cpu(proxy.pid)
    report = what.run(proxy, seconds)
    user, system = (now - then for now, then in zip(machine.cpu(proxy.pid), before))
    micros = 1e6 / report["requests"]
    return {
        "cpu": (user + system) * micros, "user": user * micros, "system": system * micros, "rate": report["rate"],
        "p50": report["p50"], "p99": report["p99"], "p999": report["p999"],
        "resident": machine.resident(proxy.pid) / KIB,
    }


def compare(world, options, case, title, what, wanted, against=None):
    """Runs rounds of a load, interleaved over the proxies; the figures are medians.

    `what` is the load of every proxy, or a dictionary with the load of each. `against` has pairs of proxies to compare;
    without it bearerd is compared with every other proxy.
    """
    result = Result(case, title)
    with running(world, wanted, options, result) as proxies:
        loads = {proxy.name: what[proxy.name] if isinstance(what, dict) else what for proxy in proxies}
        for proxy in proxies:
            loads[proxy.name].run(proxy, WARM_UP_SECONDS, may_fail=True)
        result.rounds = {proxy.name: [] for proxy in proxies}
        for number in range(options.rounds):
            turn = number % len(proxies) if proxies else 0
            for proxy in proxies[turn:] + proxies[:turn]:
                if proxy.name not in result.rounds:
                    continue
                try:
                    result.rounds[proxy.name].append(one_round(proxy, loads[proxy.name], options.seconds))
                except load.Failed as failed:
                    result.failed[proxy.name] = str(failed)
                    del result.rounds[proxy.name]
    for name, rounds in result.rounds.items():
        result.proxies[name] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    result.ratios = ratios(result.proxies, ("cpu", "p99", "rate"), against)
    return result


def ratios(figures, keys, against=None):
    """The ratios of bearerd to each other proxy, or of the pairs in `against`."""
    if against is None:
        ours = [name for name in figures if name.startswith("bearerd")]
        pairs = [(our, other) for our in ours for other in figures if not other.startswith("bearerd")]
    else:
        pairs = [(one, other) for one, other in against if one in figures and other in figures]
    return [
        {"of": one, "to": other, **{key: figures[one][key] / figures[other][key] for key in keys if figures[other][key]}}
        for one, other in pairs
    ]


def connections(options, default):
    return options.connections or default


def get(world, options, defaults=(1, 64, 1000)):
    for count in connections(options, defaults):
        title = f"GET of 1 KiB, {count} connection{'s' if count > 1 else ''}"
        long = dataclasses.replace(options, seconds=max(options.seconds, CROWD_SECONDS)) if count >= CROWD else options
        yield compare(world, long, f"get-{count}", title, Load(count), variants(*ALL_PEERS))


def post(case, size, title, default):
    def run(world, options):
        for count in connections(options, (default,)):
            what, ending = Load(count, body=size, path="/upload"), f"{count} connections"
            yield compare(world, options, case, f"POST of {title}, {ending}", what, variants(*ALL_PEERS))
            if size == 64 * KIB:
                kept = [Variant("bearerd"), Variant("bearerd", "bearerd-unkept", replay=False)]
                against = [("bearerd", "bearerd-unkept")]
                of = f"POST of {title}, kept for a replay or not, {ending}"
                yield compare(world, options, case + "-kept", of, what, kept, against)

    return run


def download(world, options):
    for count in connections(options, (16, 64, 256)):
        what, title = Load(count, path="/large"), f"responses of 1 MiB, {count} connections"
        yield compare(world, options, f"download-{count}", title, what, variants(*ALL_PEERS))


def http2(world, options):
    machine.tool("h2load")
    for count in connections(options, (8,)):
        title = f"GET of 1 KiB by HTTP/2, {count} connections of 8 streams"
        what = Load(count, streams=8)
        yield compare(world, options, "http2", title, what, variants(*ALL_PEERS, http2=True))


def tls(world, options):
    for count in connections(options, (64,)):
        title = f"GET of 1 KiB by callers over TLS, {count} connections"
        yield compare(world, options, "tls", title, Load(count), variants(*ALL_PEERS, tls=True))


def access_log(world, options):
    wanted = [Variant("nginx"), Variant("nginx", "nginx-log", access_log=True),
              Variant("bearerd"), Variant("bearerd", "bearerd-log", access_log=True)]
    against = [("nginx-log", "nginx"), ("bearerd-log", "bearerd"), ("bearerd-log", "nginx-log")]
    for count in connections(options, (64,)):
        title = f"GET of 1 KiB, access log off and on, {count} connections"
        yield compare(world, options, "access-log", title, Load(count), wanted, against)


def growth(world, options, case, title, steps):
    """How the cost of a request grows over steps, which are triples of a label, settings of the proxies, and a load.

    Compares each proxy's cost at a step with its cost at the first step, and bearerd's with nginx' at each step.
    """
    peers = ("nginx", "bearerd")
    wanted = [Variant(peer, f"{peer}-{label}", **settings) for label, settings, _ in steps for peer in peers]
    loads = {f"{peer}-{label}": what for label, _, what in steps for peer in peers}
    labels = [label for label, _, _ in steps]
    against = [(f"bearerd-{label}", f"nginx-{label}") for label in labels]
    against += [(f"{peer}-{label}", f"{peer}-{labels[0]}") for peer in reversed(peers) for label in labels[1:]]
    yield compare(world, options, case, title, loads, wanted, against)


def crowd(world, options):
    counts = connections(options, (1, 10, 100, 1000, min(10_000, machine.most_connections())))
    steps = [(str(count), {}, Load(count)) for count in counts]
    options = dataclasses.replace(options, seconds=max(CROWD_SECONDS, options.seconds))
    yield from growth(world, options, "connections", "GET of 1 KiB, by the number of callers' connections", steps)


def bodies(world, options):
    count = max(connections(options, (16,)))
    sizes = {f"{size // KIB}KiB": size for size in SIZES}
    down = [(label, {}, Load(count, path=f"/sized/{size}")) for label, size in sizes.items()]
    yield from growth(world, options, "bodies-down", f"GET, by the size of the response, {count} connections", down)
    up = [(label, {}, Load(count, body=size, path="/upload")) for label, size in sizes.items()]
    yield from growth(world, options, "bodies-up", f"POST, by the size of the request, {count} connections", up)


def routes(world, options):
    wanted = [Variant("bearerd", f"bearerd-{count}", routes=count) for count in (1, 100, 10_000)]
    against = [("bearerd-100", "bearerd-1"), ("bearerd-10000", "bearerd-1")]
    for count in connections(options, (64,)):
        title = f"GET of 1 KiB, 1, 100 and 10,000 routes, {count} connections"
        yield compare(world, options, "routes", title, Load(count), wanted, against)


def token_life(world, options):
    """What tokens cost that live for two seconds, beside tokens that live for an hour."""
    wanted = [Variant("bearerd", "bearerd-1h"), Variant("bearerd", "bearerd-2s", token_life=2)]
    for count in connections(options, (64,)):
        title = f"GET of 1 KiB, tokens of an hour and of two seconds, {count} connections"
        result = compare(world, options, "token-life", title, Load(count), wanted, [("bearerd-2s", "bearerd-1h")])
        for name in result.proxies:
            result.proxies[name]["token_requests"] = world.tokens.issued[name]
        yield result


def at_rest(proxy):
    """The memory in MiB and the processor time in percent of a proxy without requests."""
    time.sleep(REST_SECONDS)
    before = sum(machine.cpu(proxy.pid))
    time.sleep(REST_SECONDS)
    busy = sum(machine.cpu(proxy.pid)) - before
    return {"resident": machine.resident(proxy.pid) / KIB, "rest_percent": busy / REST_SECONDS * 100}


def credentials(world, options):
    """The start until every credential has its token, and the memory and the processor time at rest."""
    result = Result("credentials", "start to all tokens, and at rest, by the number of credentials")
    counts = (1, 10, 100, 1000)
    wanted = [Variant("bearerd", f"bearerd-{count}", routes=count, credentials=count) for count in counts]
    for variant in wanted if "bearerd" in options.peers else ():
        times = []
        for number in range(options.rounds):
            begun = time.monotonic()
            with Proxy(world, variant) as proxy:
                proxy.await_tokens(begun + 60)
                times.append((time.monotonic() - begun) * 1e3)
                if number == options.rounds - 1:
                    result.proxies[proxy.name] = {"tokens_ms": statistics.median(times), **at_rest(proxy)}
    least, most = (result.proxies.get(wanted[at].name) for at in (0, -1))
    if least and most:
        kib = (most["resident"] - least["resident"]) * KIB / (counts[-1] - counts[0])
        result.ratios = [{"of": wanted[-1].name, "to": wanted[0].name, "credential_kib": kib}]
    yield result


def workers(world, options):
    """How much more two cores do than one, by the CPU time of a request."""
    wanted = [Variant(peer, f"{peer}-{count}", workers=count) for peer in ("nginx", "bearerd") for count in (1, 2)]
    against = [(f"{peer}-2", f"{peer}-1") for peer in ("nginx", "bearerd")]
    for count in connections(options, (64,)):
        title = f"GET of 1 KiB, one worker and two, {count} connections"
        result = compare(world, options, "workers", title, Load(count), wanted, against)
        for ratio in result.ratios:
            ratio["scale"] = 2 / ratio["cpu"]
        yield result


def quota(world, options):
    """What a budget costs, and how much more two cores do with one budget than one core."""
    wanted = [Variant("bearerd")]
    wanted += [Variant("bearerd", f"bearerd-quota-{count}", quota=True, workers=count) for count in (1, 2)]
    against = [("bearerd-quota-1", "bearerd"), ("bearerd-quota-2", "bearerd-quota-1")]
    for count in connections(options, (64,)):
        title = f"GET of 1 KiB, without and with `api_quota`, one worker and two, {count} connections"
        result = compare(world, options, "quota", title, Load(count), wanted, against)
        for ratio in result.ratios[1:]:
            ratio["scale"] = 2 / ratio["cpu"]
        yield result


def idle(world, options):
    """The memory of an idle connection that carried one request, in KiB."""
    count = max(connections(options, (IDLE_CONNECTIONS,)))
    result = Result("idle", f"{count} idle connections")
    with running(world, variants("nginx", "haproxy", "envoy", "bearerd"), options, result) as proxies:
        for proxy in proxies:
            held = load.idle(proxy, 10)
            before = machine.resident(proxy.pid)
            held += load.idle(proxy, count)
            # Allocators return memory that was used briefly after some seconds.
            time.sleep(IDLE_SECONDS)
            after = machine.resident(proxy.pid)
            result.proxies[proxy.name] = {"idle_kib": (after - before) / count, "resident": after / KIB}
            for connection in held:
                connection.close()
    result.ratios = ratios(result.proxies, ("idle_kib",))
    yield result


def revoked(world, options):
    """The answers to callers and the token requests when the token is revoked under load."""
    seconds = max(4, options.seconds)
    result = Result("revoked", f"a token revoked after {seconds // 2} of {seconds} s, 64 connections")
    with running(world, variants("envoy", "bearerd", revocable=True), options, result) as proxies:
        for proxy in proxies:
            asked = world.tokens.issued[proxy.name]
            dying = threading.Timer(seconds / 2, world.revoke, [proxy.name])
            dying.start()
            report = Load().run(proxy, seconds, may_fail=True)
            dying.join()
            result.proxies[proxy.name] = {
                "requests": report["requests"], "errors": report["rejected"] + report["broken"],
                "token_requests": world.tokens.issued[proxy.name] - asked, "p999": report["p999"],
            }
    yield result


def start(world, options):
    """The time from the start to the first answer, without the token endpoint's time; and the idle memory."""
    result = Result("start", "start to the first proxied request, and at rest")
    times = {}
    with running(world, variants("nginx", "haproxy", "envoy", "bearerd"), options, result) as proxies:
        # Proxies start one after the other, as they would delay each other.
        for proxy in proxies:
            machine.stop(proxy.process)
        for proxy in proxies:
            for _ in range(options.rounds + 2):
                begun = time.monotonic()
                proxy.start()
                proxy.await_answer(begun + 20, pause=0.001)
                took = time.monotonic() - begun - world.tokens.took.get(proxy.name, 0)
                times.setdefault(proxy.name, []).append(took * 1e3)
                machine.stop(proxy.process)
            proxy.start()
            time.sleep(2)
            result.proxies[proxy.name] = {
                "start_ms": statistics.median(times[proxy.name]),
                "resident": machine.resident(proxy.pid) / KIB,
                "binary_mib": stripped_size(world, proxy.command[0]) / KIB / KIB,
            }
            # The context stops the last process.
    result.ratios = ratios(result.proxies, ("start_ms", "resident"))
    yield result


def cold(world, options):
    """Callers that come all at once to a proxy that was just started, for large responses."""
    count = max(connections(options, (COLD_CONNECTIONS,)))
    result = Result("cold", f"{count} connections at once, from the start, 1 MiB each")
    with running(world, variants(*ALL_PEERS), options, result) as proxies:
        rounds = {proxy.name: [] for proxy in proxies}
        for _ in range(options.rounds):
            for proxy in proxies:
                machine.stop(proxy.process)
                proxy.start()
                proxy.await_answer(time.monotonic() + 20)
                took = load.at_once(proxy, count, "/large", KIB * KIB)
                if len(took) < count:
                    result.failed[proxy.name] = f"{count - len(took)} of {count} requests"
                cuts = statistics.quantiles(took, n=100)
                rounds[proxy.name].append({"p50": cuts[49], "p99": cuts[98], "slowest": max(took)})
    for name, figures in rounds.items():
        result.proxies[name] = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
    result.ratios = ratios(result.proxies, ("p50", "p99", "slowest"))
    yield result


def stripped_size(world, binary):
    """The size of the shipped binary."""
    copy = world.folder / "stripped"
    shutil.copyfile(binary, copy)
    if shutil.which("strip"):
        subprocess.run(["strip", copy], capture_output=True)
    size = copy.stat().st_size
    copy.unlink()
    return size


#: The cases by name, and whether the overview has them.
CASES = {
    "get": (get, True),
    "post-1k": (post("post-1k", KIB, "1 KiB", 64), True),
    "post-64k": (post("post-64k", 64 * KIB, "64 KiB", 64), False),
    "post-1m": (post("post-1m", KIB * KIB, "1 MiB", 16), False),
    "download": (download, False),
    "http2": (http2, True),
    "tls": (tls, False),
    "access-log": (access_log, False),
    "connections": (crowd, False),
    "bodies": (bodies, False),
    "routes": (routes, False),
    "credentials": (credentials, False),
    "token-life": (token_life, False),
    "workers": (workers, False),
    "quota": (quota, False),
    "idle": (idle, False),
    "revoked": (revoked, False),
    "start": (start, True),
    "cold": (cold, False),
}


def overview(world, options, name):
    """Runs a case with the settings of the overview."""
    if name == "get":
        return get(world, options, (64,))
    return CASES[name][0](world, options)
