"""Does what `docker compose up` would do with docker-compose.yml, without Docker: compose_up.py ROOT IMAGE_JSON FOLDER

Each service of the default profile runs from the image's files as a container does: in namespaces for mounts, processes and
network, with the image's user, entry point and health check, on a read-only root file system. Runs in a network namespace
of its own. ROOT has the files of the image, IMAGE_JSON what `buildah inspect` says of it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from ruamel.yaml import YAML

DEADLINE = 20  # seconds, for whatever is waited for
REVOKED_WITHIN = 40  # the platform revokes every 30 s
BRIDGE = "10.89.0.1"
# What this program does; another key in docker-compose.yml would go untested.
KEYS = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "ports", "read_only", "restart",
    "security_opt", "stop_grace_period", "ulimits", "user", "volumes",
}


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, **options).stdout


def expect(what, actual, wanted):
    if actual != wanted:
        sys.exit(f"{what}: expected {wanted!r}, got {actual!r}")


def wait_for(what, condition, within=DEADLINE):
    end = time.monotonic() + within
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {within} s")
        time.sleep(0.02)


def check_image(config, root):
    expect("user", config["User"], "65532:65532")
    expect("entry point", config["Entrypoint"], ["/usr/bin/bearerd"])
    expect("command", config["Cmd"], ["run"])
    expect("health check", config["Healthcheck"]["Test"], ["CMD", "/usr/bin/bearerd", "health"])
    expect("stop signal", config["StopSignal"], "SIGTERM")
    labels = {f"org.opencontainers.image.{name}" for name in
              ("title", "description", "licenses", "version", "revision", "created")}
    expect("labels without a value", {name for name in labels if not config["Labels"].get(name)}, set())
    programs = [path for path in root.rglob("*")
                if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o111 and "/lib" not in str(path)]
    expect("programs", [str(path.relative_to(root)) for path in programs], ["usr/bin/bearerd"])
    state = (root / "var/lib/bearerd").stat()
    expect("owner and mode of the folder of states", (state.st_uid, state.st_mode & 0o777), (65532, 0o700))


class Container:
    def __init__(self, name, service, address, image, root, folder, hosts):
        unknown = set(service) - KEYS
        expect(f"keys of {name} that this program does not know", unknown, set())
        expect(f"{name}: restrictions", (service["read_only"], service["cap_drop"], service["security_opt"]),
               (True, ["ALL"], ["no-new-privileges:true"]))
        self.name, self.service, self.address, self.image = name, service, address, image
        self.log = folder / f"{name}.log"
        self.root = folder / name
        shutil.copytree(root, self.root, symlinks=True)
        shutil.copystat(root, self.root)
        for path, _, names in os.walk(root):
            for entry in [".", *names]:
                at = Path(path, entry)
                status = at.lstat()
                os.chown(self.root / at.relative_to(root), status.st_uid, status.st_gid, follow_symlinks=False)
        self.user, self.group = service.get("user", image["User"]).split(":")
        expect(f"{name}: user", self.user, "65532")
        self.environment = dict(pair.split("=", 1) for pair in image["Env"]) | dict(service.get("environment", {}))
        self.command = image["Entrypoint"] + list(service.get("command", image["Cmd"]))
        self.mounts = [mount for volume in service["volumes"] for mount in self.mount(volume, folder)]
        (self.root / "etc/hosts").write_text(hosts)
        for place in ("dev", "proc"):
            (self.root / place).mkdir(exist_ok=True)
        self.connect()

    def mount(self, volume, folder):
        """The commands that mount a volume; a named one that is new takes owner, mode and content of its place."""
        source, target, *options = volume.split(":")
        place = self.root / target.lstrip("/")
        if source.startswith("./"):
            source = Path(source).resolve(strict=True)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        else:
            source = folder / "volumes" / source
            if not source.exists():
                source.mkdir(parents=True)
                if place.exists():
                    shutil.copystat(place, source)
                    os.chown(source, place.stat().st_uid, place.stat().st_gid)
            place.mkdir(parents=True, exist_ok=True)
        yield f"mount --bind {source} {place}"
        if options == ["ro"]:
            yield f"mount -o remount,bind,ro {place}"

    def connect(self):
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"to-{self.name}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", f"to-{self.name}", "master", "bridge0", "up")
        run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", self.name, "link", "set", device, "up")

    def start(self):
        script = [
            "set -e", f"mount --bind {self.root} {self.root}", f"mount -t tmpfs -o mode=755 none {self.root}/dev",
            *(f"touch {self.root}/dev/{device} && mount --bind /dev/{device} {self.root}/dev/{device}"
              for device in ("null", "zero", "urandom", "random")),
            f"mount -t proc none {self.root}/proc", *self.mounts, f"mount -o remount,bind,ro {self.root}",
            # As far as this machine allows.
            f"ulimit -n {self.service['ulimits']['nofile']} 2>/dev/null || true",
            f'exec setpriv --no-new-privs unshare --root={self.root} --wd=/ --setgid={self.group} --setuid={self.user} -- "$@"',
        ]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "--propagation", "private", "sh", "-c", "\n".join(script), "sh", *self.command],
            stdin=subprocess.DEVNULL, stdout=self.log.open("w"), stderr=subprocess.STDOUT, env=self.environment)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int(wait_for(f"{self.name} starts", lambda: self.alive() and children.read_text().strip()))

    def alive(self):
        if self.process.poll() is not None:
            sys.exit(f"{self.name} has ended with {self.process.returncode}")
        return True

    def execute(self, *command):
        """As `docker compose exec`."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd=/", f"--setuid={self.user}",
             f"--setgid={self.group}", "--", *command], env=self.environment, text=True, capture_output=True)

    def healthy(self):
        self.alive()
        test = self.service.get("healthcheck", {}).get("test", self.image["Healthcheck"]["Test"])
        expect("form of the health check", test[0], "CMD")
        return self.execute(*test[1:]).returncode == 0

    def status(self, name):
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split()[1:] for line in lines if line.startswith(f"{name}:"))

    def lines(self):
        """The complete lines of the log."""
        return [json.loads(line) for line in self.log.read_text().split("\n")[:-1] if line.startswith("{")]

    def check_confinement(self):
        expect(f"{self.name}: users and groups", (self.status("Uid"), self.status("Gid")), (["65532"] * 4, ["65532"] * 4))
        expect(f"{self.name}: capabilities", self.status("CapEff"), ["0" * 16])
        expect(f"{self.name}: no new privileges", self.status("NoNewPrivs"), ["1"])
        is_read_only = os.statvfs(f"/proc/{self.pid}/root").f_flag & os.ST_RDONLY
        expect(f"{self.name}: the root file system is read-only", bool(is_read_only), True)

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)

    def ended(self):
        expect(f"{self.name}: exit code", self.process.wait(DEADLINE), 0)


def get(url, host):
    request = urllib.request.Request(url, headers={"Host": host})
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        return response.status, response.read().decode()


def drain(bearerd):
    """A request in flight at SIGTERM is answered, and bearerd ends with 0."""
    with socket.create_connection((bearerd.address, 8080), timeout=DEADLINE) as connection:
        connection.sendall(b"POST /drain HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 4\r\n\r\nab")
        time.sleep(0.2)
        bearerd.stop()
        time.sleep(0.2)
        connection.sendall(b"cd")
        answer = connection.makefile("rb").readline()
    expect("a request in flight at SIGTERM", answer, b"HTTP/1.1 200 OK\r\n")
    bearerd.ended()


def in_order(services, names):
    """Each service after those that it depends on: the order in which Compose creates and starts them."""
    ordered = []

    def add(name):
        for other, how in services[name].get("depends_on", {}).items():
            expect(f"{name}: depends_on", how["condition"], "service_healthy")
            add(other)
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name)
    return ordered


def up(services, image, root, folder, containers):
    names = in_order(services, [name for name, service in services.items() if "profiles" not in service])
    addresses = {name: f"10.89.0.{number}" for number, name in enumerate(names, 2)}
    hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
    run("mount", "-t", "tmpfs", "none", "/run")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge0", "type", "bridge")
    run("ip", "address", "add", f"{BRIDGE}/24", "dev", "bridge0")
    run("ip", "link", "set", "bridge0", "up")
    created = [Container(name, services[name], addresses[name], image, root, folder, hosts) for name in names]
    for name, container in zip(names, created):
        for other in services[name].get("depends_on", {}):
            wait_for(f"{other} is healthy", containers[other].healthy)
        containers[name] = container
        container.start()
    return containers


def check(containers):
    platform, bearerd = containers["platform"], containers["bearerd"]
    proxy, host = f"http://{bearerd.address}:8080", "localhost:8080"

    def connects():
        bearerd.alive()
        try:
            return socket.create_connection((bearerd.address, 8080), timeout=1)
        except ConnectionRefusedError:
            return None

    wait_for("bearerd listens", connects).close()
    print(f"figure: bearerd accepts connections {round((time.monotonic() - bearerd.started) * 1000)} ms after its container's start")
    wait_for("bearerd is healthy", bearerd.healthy)
    for container in containers.values():
        container.check_confinement()
    # Docker's published port: from this machine's loopback, which arrives from the address of the bridge.
    status, body = get(f"{proxy}/hello", host)
    expect("status", status, 200)
    expect("the API's answer", json.loads(body)["message"], "this request carried a live token")
    wait_for("the platform revokes", lambda: "all tokens were revoked" in platform.log.read_text(), REVOKED_WITHIN)
    expect("status with a revoked token", get(f"{proxy}/hello", host)[0], 200)
    metrics = get(f"http://{bearerd.address}:9091/metrics", "bearerd:9091")[1]
    expect("metrics", "bearerd_build_info{" in metrics, True)
    # The log is written beside the requests.
    replayed = wait_for("the request is logged", lambda: [line for line in bearerd.lines() if line.get("unauthorized")])
    expect("what became of the 401", [line["unauthorized"] for line in replayed], ["replayed"])
    warnings = [line["message"] for line in bearerd.lines() if line["target"].endswith("reloader")]
    expect("warnings of the configuration", warnings, ["configuration: callers' requests cross the network in the clear"])
    shown = bearerd.execute("bearerd", "status")
    expect("bearerd status", (shown.returncode, "demo" in shown.stdout), (0, True))
    print(f"figure: bearerd has {bearerd.status('VmRSS')[0]} kB of resident memory")
    drain(bearerd)
    platform.stop()
    platform.ended()


def main(root, image, folder):
    image = json.loads(Path(image).read_text())["Docker"]["config"]
    root, folder = Path(root), Path(folder) / "containers"
    folder.mkdir()
    check_image(image, root)
    services = YAML(typ="safe").load(Path("docker-compose.yml"))["services"]
    containers = {}
    try:
        check(up(services, image, root, folder, containers))
    except BaseException:
        for log in folder.glob("*.log"):
            print(f"---- {log.name}\n{log.read_text()}")
        raise
    finally:
        for container in containers.values():
            if getattr(container, "process", None) and container.process.poll() is None:
                container.process.kill()


main(*sys.argv[1:])
