"""Makes a release of a binary, twice, and uses the archive as its README says: release.py PATH_OF_BEARERD

The two have the same checksums. The list of components is valid CycloneDX and has every crate of the binary, which lists them
itself. The commands of the README run from the unpacked archive, in a network namespace of their own. Needs root.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zlib
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

DIST = Path("target/dist")
DEADLINE = 20  # seconds, for the daemon to be up
# What the README's commands become here, where nothing but loopback can be reached; None is not run.
COMMANDS = {
    "bearerd demo": "bearerd demo --once",
    "bearerd check": "bearerd check",
    "bearerd check --online": None,
    "bearerd run": "bearerd run",
    "curl -i http://127.0.0.1:8080/api/v2/users": None,
    "export API_CLIENT_SECRET=…": None,
}
SHIPPED = [
    "README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "proxy.toml", "proxy.schema.json", "bearerd.cdx.json",
    "man/bearerd.1", "man/bearerd-run.1", "completions/bearerd.bash", "completions/bearerd.zsh", "completions/bearerd.fish",
    "deploy/grafana/bearerd.json", "deploy/prometheus/alerts.yaml", "deploy/systemd/bearerd.service",
    "deploy/systemd/bearerd.socket", "docs/README.md",
]


def fail(message):
    sys.exit(f"{message}")


def run(*command, **options):
    done = subprocess.run(command, text=True, capture_output=True, **options)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def make(binary):
    # --fast: the quick compression, which is right for trying.
    run("deploy/dist", binary, env=os.environ | {"CARGO_DEB_OPTIONS": "--fast"})
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=DIST)
    return (DIST / "SHA256SUMS").read_text()


def crates_in(binary):
    """What cargo-auditable has put in the section .dep-v0."""
    with tempfile.NamedTemporaryFile() as section:
        run("objcopy", "--dump-section", f".dep-v0={section.name}", binary, "/dev/null")
        data = Path(section.name).read_bytes()
    if not data:
        fail(f"{binary} does not list its crates: build it with cargo-auditable")
    packages = json.loads(zlib.decompress(data))["packages"]
    return {(package["name"], package["version"]) for package in packages if package.get("kind") != "build"}


def check_components(root, binary):
    text = (root / "bearerd.cdx.json").read_text()
    problem = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    if problem:
        fail(f"the list of components is invalid: {problem}")
    if str(Path.cwd()) in text:
        fail("the list of components names a path of this machine")
    listed = json.loads(text)
    components = {(component["name"], component["version"]) for component in listed["components"]}
    components.add((listed["metadata"]["component"]["name"], listed["metadata"]["component"]["version"]))
    missing = crates_in(binary) - components
    if missing:
        fail(f"the list of components lacks {sorted(missing)}")
    print(f"figure: {len(components)} components, among them the {len(crates_in(binary))} crates that the binary lists")


def check_links(root):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (root / "README.md").read_text()):
        if not (root / target).exists():
            fail(f"README.md of the archive links to {target}, which the archive does not have")


def use(root, version):
    """Runs what the README says, with the archive's folder in PATH."""
    readme = (root / "README.md").read_text()
    environment = {"PATH": f"{root}:/usr/bin:/bin", "API_CLIENT_SECRET": "x"}
    said = run("bearerd", "--version", env=environment).strip()
    if not re.fullmatch(rf"bearerd {re.escape(version)} \(commit [0-9a-f]{{12}}\)", said):
        fail(f"--version says {said!r}")
    if "`bearerd demo`" not in readme:
        fail("README.md does not name the demo")
    commands = ["bearerd demo"] + [line.split("#")[0].strip() for line in re.findall(r"^\$ (.*)$", readme, re.M)]
    unknown = set(commands) - set(COMMANDS)
    if unknown or "bearerd run" not in commands:
        fail(f"commands of the README that nothing here runs: {sorted(unknown)}")
    with tempfile.TemporaryDirectory() as folder:
        configuration = re.search(r"```toml\n(.*?)```", readme, re.S).group(1)
        tomllib.loads(configuration)
        Path(folder, "proxy.toml").write_text(configuration)
        for command in filter(None, map(COMMANDS.get, commands)):
            if command == "bearerd run":
                command = f"{command} & bearerd health --wait {DEADLINE}s && kill -TERM $! && wait $!"
            # A network without anything but loopback, where no other program has the ports.
            run("unshare", "--net", "sh", "-c", f"/sbin/ip link set lo up && {command}", cwd=folder, env=environment)
    print(f"figure: {sum(1 for command in commands if COMMANDS[command])} commands of the README run from the archive")


def main(binary):
    begun = time.monotonic()
    first = make(binary)
    took = time.monotonic() - begun
    second = make(binary)
    if first != second:
        fail(f"two releases of one binary differ:\n{first}{second}")
    sizes = {path.name.split(".", 3)[-1]: path.stat().st_size // 1000 for path in DIST.iterdir()}
    print(f"figure: two releases with the same checksums, {took:.0f} s each; kB: {sizes}")
    version = tomllib.loads(Path("Cargo.toml").read_text())["package"]["version"]
    archive = next(DIST.glob("*.tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        root = Path(folder, archive.name.removesuffix(".tar.gz"))
        missing = [name for name in SHIPPED if not (root / name).is_file()]
        if missing:
            fail(f"the archive lacks {missing}")
        check_components(root, root / "bearerd")
        check_links(root)
        use(root, version)


main(*sys.argv[1:])
