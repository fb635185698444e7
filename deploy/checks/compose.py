"""Checks that what docker-compose.yml names exists: compose.py PATH_OF_BEARERD

Files, commands, variables and configuration keys, in the file as it is and with the commented lines of each platform.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from ruamel.yaml import YAML

PLATFORMS = ("genesys", "cxone")
failures = []


def check(what, holds):
    if not holds:
        failures.append(what)


def with_platform(text, platform):
    """The file as its comments tell to change it: `#` before a key or an item makes a line of that platform."""
    lines = []
    for line in text.splitlines():
        code = line.lstrip().removeprefix("#")
        is_commented = line.lstrip().startswith("#") and not code.startswith(" ")
        if is_commented and platform in code:
            line = line.replace("#", "", 1)
        if "demo.toml" not in line:
            lines.append(line)
    return "\n".join(lines)


def load(text):
    return YAML(typ="safe").load(text)


def image_of_dockerfile(service):
    return service.get("image") == "bearerd"


def environment_of(service):
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def check_files(name, compose):
    for service_name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                check(f"{name}: {service_name} mounts {source}, which is not in the repository", is_tracked(source))
                mode = Path(source).stat().st_mode if Path(source).exists() else 0o444
                check(f"{name}: {source} is not readable for user 65532", mode & 0o004)
            else:
                check(f"{name}: {service_name} mounts {source}, which `volumes` does not name", source in compose["volumes"])
        for secret in service.get("secrets", []):
            check(f"{name}: {service_name} uses {secret}, which `secrets` does not name", secret in compose.get("secrets", {}))
    for secret, at in compose.get("secrets", {}).items():
        ignored = subprocess.run(["git", "check-ignore", "--quiet", at["file"]]).returncode == 0
        check(f"{name}: git does not ignore the secret {secret} in {at['file']}", ignored)


def is_tracked(path):
    listed = subprocess.run(["git", "ls-files", "--error-unmatch", path], capture_output=True).returncode == 0
    return listed and Path(path).exists()


def check_command(name, bearerd, command):
    """A command and its options exist: the program's own help has them."""
    words = command[1:] if command[:1] == ["/usr/bin/bearerd"] else command
    options = [word for word in words if word.startswith("-")]
    shown = subprocess.run([bearerd, words[0], "--help"], text=True, capture_output=True)
    check(f"{name}: there is no command {words[0]}", shown.returncode == 0)
    for option in options:
        check(f"{name}: {words[0]} has no option {option}", option in shown.stdout)


def check_configuration(name, bearerd, service, secrets):
    """The mounted configuration is valid with the service's environment and the secrets that the service has."""
    source = next(volume.split(":")[0] for volume in service["volumes"] if volume.endswith(":/etc/bearerd/proxy.toml:ro"))
    text = Path(source).read_text()
    key = subprocess.run([bearerd, "keygen"], check=True, text=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        for secret in service.get("secrets", []):
            check(f"{name}: {source} does not use the secret {secret}", f"/run/secrets/{secret}" in text)
            Path(folder, secret).write_text(key if secret.endswith("_key") else "x")
            text = text.replace(f"/run/secrets/{secret}", f"{folder}/{secret}")
        authority = Path(folder, "ca.pem")
        authority.write_text(Path("/etc/ssl/certs/ca-certificates.crt").read_text())
        text = text.replace("/etc/platform/ca.pem", str(authority))
        check(f"{name}: {source} names a secret that the service does not have", "/run/secrets/" not in text)
        configuration = Path(folder, "proxy.toml")
        configuration.write_text(text)
        environment = environment_of(service)
        checked = subprocess.run([bearerd, "check", "-c", configuration], text=True, capture_output=True, env=environment)
        check(f"{name}: {source}: {checked.stdout}{checked.stderr}", checked.returncode == 0)
    for variable in environment:
        check(f"{name}: {source} does not use {variable}", variable.startswith(("BEARERD_", "DEMO_")) or f'"{variable}"' in text)
    return tomllib.loads(text)


def check_ports(name, service, configuration):
    port = service["ports"][0].split(":")[-1]
    check(f"{name}: bearerd listens on another port than {port}", configuration["server"]["listen"] == f"0.0.0.0:{port}")
    check(f"{name}: a port is open to other machines", all(entry.startswith("127.0.0.1:") for entry in service["ports"]))


def scraped():
    """Service and port of everything that Prometheus scrapes."""
    (scrape,) = load(Path("deploy/container/prometheus.yml").read_text())["scrape_configs"]
    by_name = ((name, str(entry["port"])) for entry in scrape["dns_sd_configs"] for name in entry["names"])
    return {tuple(target.split(":")) for entry in scrape["static_configs"] for target in entry["targets"]} | set(by_name)


def check_replicas(name, bearerd, compose):
    """The services of the profile: replicas of one configuration, on ports of their own, and the store that it names."""
    profile = {key: one for key, one in compose["services"].items() if "replicas" in one.get("profiles", [])}
    replicas = {key: one for key, one in profile.items() if image_of_dockerfile(one)}
    stores = {key: one for key, one in profile.items() if key not in replicas}
    check(f"{name}: the profile has {list(replicas)} and {list(stores)}", (len(replicas), len(stores)) == (2, 1))
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    check(f"{name}: a port is published twice: {ports}", len(set(ports)) == len(ports))
    for key, service in replicas.items():
        configuration = check_configuration(f"{name}: {key}", bearerd, service, compose["secrets"])
        check_ports(name, service, configuration)
        check_scrape(name, key, configuration)
        shared = configuration["shared"]
        check(f"{name}: {key} shares with {shared['url']}", urlsplit(shared["url"]).hostname in stores)
        check(f"{name}: hosts of {key}", {key, "localhost"} <= set(configuration["server"]["hosts"]))
        only_ports = {**service, "ports": None} == {**next(iter(replicas.values())), "ports": None}
        check(f"{name}: {key} differs from the other replica in more than its port", only_ports)
    for key, store in stores.items():
        check(f"{name}: {key} publishes a port", "ports" not in store)
        check(f"{name}: {key} is not confined", (store["read_only"], store["cap_drop"]) == (True, ["ALL"]))
        check(f"{name}: {key} may forget", "noeviction" in store["command"])


def check_images(name, compose):
    for key, service in compose["services"].items():
        pinned = re.fullmatch(r"docker\.io/[a-z/]+:[\d.v]+@sha256:[0-9a-f]{64}", service["image"])
        check(f"{name}: {key} has the image {service['image']}", image_of_dockerfile(service) or pinned)


def check_scrape(name, service, configuration):
    port = configuration["health"]["listen"].split(":")[1]
    check(f"{name}: Prometheus scrapes {scraped()}, and not {service}:{port}", (service, port) in scraped())


def check_grafana(compose):
    folder = Path("deploy/container/grafana")
    provider = load((folder / "dashboards.yml").read_text())["providers"][0]["options"]["path"]
    targets = [volume.split(":")[1] for volume in compose["services"]["grafana"]["volumes"]]
    check(f"Grafana looks for dashboards in {provider}", f"{provider}/bearerd.json" in targets)
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    check(f"Grafana's first page is {home}", home in targets)
    name, port = load((folder / "datasources.yml").read_text())["datasources"][0]["url"].removeprefix("http://").split(":")
    ports = compose["services"].get(name, {}).get("ports", [])
    check(f"Grafana asks {name}:{port}", any(entry.endswith(f":{port}") for entry in ports))


def main(bearerd):
    text = Path("docker-compose.yml").read_text()
    for name, variant in [("as shipped", text), *((platform, with_platform(text, platform)) for platform in PLATFORMS)]:
        compose = load(variant)
        check_files(name, compose)
        if failures:
            break
        for service in filter(image_of_dockerfile, compose["services"].values()):
            check_command(name, bearerd, service.get("command", ["run"]))
            if "healthcheck" in service:
                check_command(name, bearerd, service["healthcheck"]["test"][1:])
        service = compose["services"]["bearerd"]
        configuration = check_configuration(name, bearerd, service, compose.get("secrets", {}))
        check_ports(name, service, configuration)
        check_scrape(name, "bearerd", configuration)
        check_grafana(compose)
        check_images(name, compose)
        check_replicas(name, bearerd, compose)
        check(f"{name}: the secrets of the platform", name == "as shipped" or service.get("secrets"))
    for failure in failures:
        print(failure)
    sys.exit(bool(failures))


os.chdir(Path(__file__).resolve().parents[2])
main(*sys.argv[1:])
