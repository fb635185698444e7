"""What must hold for each Kubernetes workload with bearerd, whichever tool has rendered it.

`faults` reads the manifests, `run` starts the container's command on this machine, with the volumes in a folder.
"""

import base64
import http.client
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import tomllib
import urllib.parse

MIB = 1024 * 1024
ROTATING = ("authorization_code", "refresh_token")
# What `bearerd check` may say of an example: what is to be filled in, and that callers speak plain HTTP within the cluster.
EXPECTED_WARNINGS = (
    "looks like a placeholder",
    "callers' requests cross the network in the clear",
    "nobody has logged in for this credential yet",
)
DEADLINE = 20  # seconds, for whatever is waited for


def duration(text):
    """Seconds."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)\s*(ms|s|m|h)", text))


def size(text):
    """Bytes of a size of bearerd or Kubernetes."""
    number, unit = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text).groups()
    units = {"": 1, "B": 1, "K": 1024, "KiB": 1024, "Ki": 1024, "M": MIB, "MiB": MIB, "Mi": MIB, "Gi": 1024 * MIB}
    return int(number) * units[unit]


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


class Workload:
    """A pod template with a container that runs bearerd, and what belongs to it."""

    def __init__(self, documents):
        self.documents = documents
        (self.deployment,) = [one for one in of_kind(documents, "Deployment") if self._containers(one)]
        self.template = self.deployment["spec"]["template"]
        self.pod = self.template["spec"]
        (self.container,) = self._containers(self.deployment)
        self.is_sidecar = self.container not in self.pod["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}
        self.volumes = {volume["name"]: volume for volume in self.pod.get("volumes", [])}
        self.mounts = {mount["mountPath"]: self.volumes[mount["name"]] for mount in self.container["volumeMounts"]}
        self.config_map = self._config_map()
        self.text = self.config_map["data"]["proxy.toml"]
        self.config = tomllib.loads(self.text)

    @staticmethod
    def _containers(deployment):
        pod = deployment["spec"]["template"]["spec"]
        containers = pod["containers"] + pod.get("initContainers", [])
        return [one for one in containers if one.get("command", [""])[0] == "/usr/bin/bearerd"]

    def _config_map(self):
        name = self.mounts["/etc/bearerd"]["configMap"]["name"]
        (config_map,) = [one for one in of_kind(self.documents, "ConfigMap") if one["metadata"]["name"] == name]
        return config_map

    def rotating(self):
        credentials = self.config.get("credentials", {}).values()
        return [one for one in credentials if one.get("grant") in ROTATING]

    def stop_seconds(self):
        """The longest stop of bearerd that is no fault."""
        server = self.config["server"]
        # A token request with a refresh token, and the write of its result.
        rotating = [duration(one.get("timeout", "60s")) + 30 for one in self.rotating()]
        return duration(server.get("drain_delay", "0s")) + max([duration(server.get("drain", "20s")), *rotating])

    def memory_bound(self):
        """The bound of docs/understand/limits.md for callers and APIs that speak HTTP/1.1."""
        limits = self.config["server"].get("limits", {})
        callers = limits.get("connections", 10_000)
        apis = sum(route.get("connections", 256) for route in self.config["routes"])
        return (
            16 * MIB
            + (callers + apis) * 32 * 1024
            + callers * size(limits.get("header_bytes", "64KiB"))
            + min(callers, apis) * 256 * 1024
            + 128 * 96 * 1024
            + size(limits.get("replay_total", "64MiB"))
        )

    def secret_files(self):
        return re.findall(r'file = "([^"]+)"', self.text)

    def is_in_secret(self, file):
        """Whether a Secret is mounted where the file is, and this file comes from it."""
        path = pathlib.PurePath(file)
        volume = self.mounts.get(str(path.parent), {})
        sources = [one.get("secret", {}) for one in volume.get("projected", {}).get("sources", [])]
        return "secret" in volume or path.name in [item["path"] for one in sources for item in one.get("items", [])]


def selects(selector, labels):
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())


def faults(documents):
    """What is wrong with the manifests, a sentence for each."""
    found = []

    def require(holds, sentence):
        if not holds:
            found.append(sentence)

    load = Workload(documents)
    pod, container, config, server = load.pod, load.container, load.config, load.config["server"]
    labels = load.template["metadata"]["labels"]
    pod_security(load.pod, require)
    require(pod.get("automountServiceAccountToken") is False, "the pod has a token of a service account")
    require(pod.get("enableServiceLinks") is False, "Services set variables of the environment")
    require(container["command"][1:] == ["run", "-c", "/etc/bearerd/proxy.toml"], f"command {container['command']}")
    require(selects(load.deployment["spec"]["selector"]["matchLabels"], labels), "the Deployment selects other pods")

    limits, requests = container["resources"].get("limits", {}), container["resources"].get("requests", {})
    require("cpu" not in limits, "there is a limit of CPU")
    require("cpu" in requests and "memory" in requests, "CPU or memory is not requested")
    memory = size(limits["memory"]) if "memory" in limits else 0
    bound = load.memory_bound()
    require(memory >= bound, f"the limit of memory is below {bound // MIB} MiB, which the limits of proxy.toml allow")
    require("workers" in server, "the number of workers depends on the node")

    health = config.get("health", {}).get("listen", "")
    for probe, path in ("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz"):
        request = container.get(probe, {}).get("httpGet", {})
        require(request.get("path") == path, f"{probe} does not ask for {path}")
        port = load.ports.get(request.get("port"))
        require(health == f"0.0.0.0:{port}", f"{probe} asks a port that is not health.listen ({health!r})")
    admin = config.get("admin", {}).get("listen", "")
    require(admin.startswith("unix:/run/bearerd/"), f"admin.listen is {admin!r}, not a unix socket of the pod")
    require("/run/bearerd" in load.mounts, "the folder of the admin socket is not mounted")

    grace = pod.get("terminationGracePeriodSeconds", 30)
    require(grace > load.stop_seconds(), f"terminationGracePeriodSeconds {grace} is not above {load.stop_seconds():g}")
    recreates = load.deployment["spec"].get("strategy", {}).get("type") == "Recreate"
    has_state = bool(server.get("state_dir"))
    require(recreates == bool(load.rotating() and has_state), "Recreate is for a state file with a rotating grant")
    require(not recreates or load.deployment["spec"]["replicas"] == 1, "instances share a rotating grant")
    if has_state:
        require("persistentVolumeClaim" in load.mounts.get(server["state_dir"], {}), "the state is not on a volume claim")
    for file in load.secret_files():
        require(load.is_in_secret(file), f"{file} is in no Secret")
    for name in re.findall(r'env = "([^"]+)"', load.text):
        require(name in [one["name"] for one in container.get("env", [])], f"the container has no variable {name}")

    annotations = load.template["metadata"].get("annotations", {})
    scraped = [one["spec"] for one in of_kind(documents, "PodMonitor")]
    if annotations.get("prometheus.io/scrape") == "true":
        require(health.endswith(":" + annotations["prometheus.io/port"]), "Prometheus asks another port")
        require(annotations["prometheus.io/path"] == "/metrics", "Prometheus asks another path")
    for monitor in scraped:
        (endpoint,) = monitor["podMetricsEndpoints"]
        require(endpoint["port"] in load.ports and endpoint["path"] == "/metrics", "the PodMonitor asks another port")
        require(selects(monitor["selector"]["matchLabels"], labels), "the PodMonitor selects other pods")
    require(scraped or "prometheus.io/scrape" in annotations, "nothing scrapes the metrics")
    hashed = re.search(r"-[a-z0-9]{10}$", load.config_map["metadata"]["name"]) or "checksum/config" in annotations
    require(hashed, "a changed configuration is no rolling update")
    if load.is_sidecar:
        require(container.get("restartPolicy") == "Always", "the init container is no sidecar")
        require(server["listen"].startswith("127.0.0.1:"), "the sidecar listens beyond the pod")
        require(not of_kind(documents, "Service"), "a Service leads to the sidecar")
    else:
        gateway(load, labels, require)
    return found


def gateway(load, labels, require):
    """What a gateway has besides its pods."""
    documents, namespace = load.documents, load.deployment["metadata"].get("namespace", "bearerd")
    replicas, budget = load.deployment["spec"]["replicas"], of_kind(documents, "PodDisruptionBudget")
    require(budget and budget[0]["spec"].get("maxUnavailable") == 1, "the disruption budget is not one pod")
    require(budget and selects(budget[0]["spec"]["selector"].get("matchLabels"), labels), "the budget is of other pods")
    for spread in load.pod.get("topologySpreadConstraints", []):
        require(selects(spread["labelSelector"]["matchLabels"], labels), "other pods are spread")
    require(replicas == 1 or load.pod.get("topologySpreadConstraints"), "all instances may be on one node")
    rolling = load.deployment["spec"]["strategy"].get("rollingUpdate")
    require(replicas == 1 or rolling == {"maxSurge": 1, "maxUnavailable": 0}, "an update takes an instance away")

    (service,) = of_kind(documents, "Service")
    require(selects(service["spec"].get("selector"), labels), "the Service selects other pods")
    targets = [port["targetPort"] for port in service["spec"]["ports"]]
    require(targets == ["http"], f"the Service leads to {targets}")
    listens = load.config["server"]["listen"]
    require(listens == f"0.0.0.0:{load.ports.get('http')}", f"server.listen {listens!r} is not the port of the Service")
    name = service["metadata"]["name"]
    for host in service_names(name, namespace):
        require(host in load.config["server"]["hosts"], f"hosts has no {host}")

    (policy,) = of_kind(documents, "NetworkPolicy")
    spec = policy["spec"]
    require(selects(spec["podSelector"].get("matchLabels"), labels), "the NetworkPolicy is of other pods")
    require(set(spec["policyTypes"]) == {"Ingress", "Egress"}, "the NetworkPolicy leaves a direction open")
    for rule in spec["ingress"]:
        require(rule.get("from"), "everyone may connect")
        for port in rule["ports"]:
            require(port["port"] in load.ports, f"the NetworkPolicy names the port {port['port']}")
    reached = {(port["port"], port.get("protocol", "TCP")) for rule in spec["egress"] for port in rule["ports"]}
    require({(53, "UDP"), (53, "TCP"), (443, "TCP")} <= reached, "DNS or HTTPS cannot be reached")
    if store := load.config.get("shared"):
        url = urllib.parse.urlsplit(store["url"])
        require((url.port or 6379, "TCP") in reached, f"the store {url.netloc} cannot be reached")
        require(url.scheme == "rediss", "the password of the store crosses the network in the clear")
    require(replicas == 1 or store or not load.rotating(), "instances use one refresh token without a store")
    (dns,) = [rule for rule in spec["egress"] if rule["ports"][0]["port"] == 53]
    require(dns["to"][0]["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}, "the DNS servers are not selected")


def service_names(name, namespace):
    return [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]


def pod_security(pod, require):
    """The Pod Security Standard "restricted" (https://kubernetes.io/docs/concepts/security/pod-security-standards/)."""
    for key in "hostNetwork", "hostPID", "hostIPC":
        require(not pod.get(key), f"the pod has {key}")
    kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    require(kinds <= allowed, f"the volumes {kinds - allowed} are not restricted")
    outer = pod.get("securityContext", {})
    for container in pod["containers"] + pod.get("initContainers", []):
        name, own = container["name"], container.get("securityContext", {})
        both = {**outer, **own}
        require(both.get("runAsNonRoot") is True and both.get("runAsUser") != 0, f"{name} may run as root")
        require(both.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{name} has no seccomp profile")
        require(own.get("allowPrivilegeEscalation") is False, f"{name} may gain privileges")
        require(own.get("capabilities") == {"drop": ["ALL"]}, f"{name} has capabilities")
        require(own.get("readOnlyRootFilesystem") is True, f"{name} may write to its image")
        require(not any("hostPort" in port for port in container.get("ports", [])), f"{name} has a port of the host")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def authority():
    """A certificate authority of this machine that is valid for a year, in PEM."""
    context, year = ssl.create_default_context(), 365 * 86400
    for der, certificate in zip(context.get_ca_certs(binary_form=True), context.get_ca_certs()):
        if ssl.cert_time_to_seconds(certificate["notAfter"]) > time.time() + year:
            return ssl.DER_cert_to_PEM_cert(der)
    raise LookupError("no certificate authority of this machine is valid for a year")


def get(port, path, host=None):
    """Status and body, or None if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request("GET", path, headers={"Host": host or f"10.0.0.1:{port}"})
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return None
    finally:
        connection.close()


def run(documents, bearerd):
    """Checks the configuration with `bearerd check`, starts the command of the container, and asks what the manifests name."""
    load, found = Workload(documents), []
    with tempfile.TemporaryDirectory(prefix="pod-") as folder:
        text, ports = load.text, {}
        for number in re.findall(r'listen = "[\d.]+:(\d+)"', text):
            ports[int(number)] = free_port()
            text = re.sub(rf'"[\d.]+:{number}"', f'"127.0.0.1:{ports[int(number)]}"', text)
        for index, mount in enumerate(load.mounts):
            place = pathlib.Path(folder, str(index))
            place.mkdir(mode=0o700)
            for name in map(pathlib.PurePath, load.secret_files()):
                if name.parent == pathlib.PurePath(mount):
                    key = base64.b64encode(bytes(32)).decode()
                    secret = place / name.name
                    content = key if "key" in secret.name else "a-secret-of-this-check"
                    secret.write_text(authority() if secret.suffix == ".pem" else content)
                    secret.chmod(0o440)
            text = text.replace(f'"{mount}/', f'"{place}/').replace(f'"{mount}"', f'"{place}"')
            text = text.replace(f"unix:{mount}/", f"unix:{place}/")
            if mount == "/etc/bearerd":
                file = place / "proxy.toml"
        file.write_text(text)
        environment = {one["name"]: one["value"] for one in load.container.get("env", [])}
        # Without an authorization server no request of this check gets a token.
        environment["BEARERD_SERVER__LIMITS__TOKEN_WAIT"] = "100ms"
        check = subprocess.run([bearerd, "check", "-c", file], env=environment, capture_output=True, text=True)
        if check.returncode != 0:
            return [f"bearerd check: {check.stdout}{check.stderr}"]
        for warning in re.findall(r"^warning: (.*)", check.stderr, re.MULTILINE):
            if not warning.startswith(EXPECTED_WARNINGS):
                found.append(f"bearerd check warns: {warning}")
        command = [bearerd, *load.container["command"][1:]]
        command[command.index("/etc/bearerd/proxy.toml")] = str(file)
        with open(os.path.join(folder, "log"), "w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            found += ask(load, {name: ports.get(port) for name, port in load.ports.items()}, process)
            # As `kubectl exec` does, through the admin socket.
            health = subprocess.run([bearerd, "health", "-c", file], env=environment, capture_output=True, text=True)
            if health.returncode != 0:
                found.append(f"bearerd health: {health.stdout}{health.stderr}")
            process.send_signal(signal.SIGTERM)
            status = process.wait(load.pod["terminationGracePeriodSeconds"])
            if status != 0:
                found.append(f"bearerd ended with {status}: {pathlib.Path(folder, 'log').read_text()}")
        finally:
            process.kill()
            process.wait()
    return found


def ask(load, ports, process):
    found = []
    probe = load.container["startupProbe"]["httpGet"]
    end = time.monotonic() + load.container["startupProbe"]["failureThreshold"]
    while (answer := get(ports[probe["port"]], probe["path"])) is None and time.monotonic() < end:
        if process.poll() is not None:
            return ["bearerd has ended"]
        time.sleep(0.05)
    if answer is None or answer[0] != 200:
        return [f"the startup probe is answered {answer}"]
    # There is no authorization server, so that the gateway is alive and not ready.
    for name, expected in ("livenessProbe", 200), ("readinessProbe", 503):
        probe = load.container[name]["httpGet"]
        status = get(ports[probe["port"]], probe["path"])[0]
        if status != expected:
            found.append(f"{name} is answered {status}")
    (health,) = {load.container[name]["httpGet"]["port"] for name in ("livenessProbe", "readinessProbe")}
    if b"bearerd_" not in get(ports[health], "/metrics")[1]:
        found.append("there are no metrics")
    for path in "/status", "/credentials", "/reload":
        if get(ports[health], path)[0] != 404:
            found.append(f"the address of health checks answers {path}")
    for service in of_kind(load.documents, "Service"):
        names = service_names(service["metadata"]["name"], load.deployment["metadata"].get("namespace", "bearerd"))
        statuses = {host: get(ports["http"], "/", host)[0] for host in [*names, "elsewhere.example"]}
        if statuses.pop("elsewhere.example") != 421 or 421 in statuses.values():
            found.append(f"the names of the Service are answered {statuses}")
    return found
