"""Renders deploy/kubernetes with kubectl, and checks the result: kubernetes.py PATH_OF_BEARERD"""

import concurrent.futures
import copy
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import yaml

import workload

ROOT = pathlib.Path(__file__).parents[1] / "kubernetes"
VERSION = "1.34"
# Each is put in one overlay, and must be found: the overlay, the kind of the document, the keys, and the value.
POD = ("spec", "template", "spec")
PLANTED = [
    ("gateway", "Deployment", (*POD, "automountServiceAccountToken"), True),
    ("gateway", "Deployment", (*POD, "enableServiceLinks"), True),
    ("gateway", "Deployment", (*POD, "terminationGracePeriodSeconds"), 25),
    ("gateway", "Deployment", (*POD, "hostNetwork"), True),
    ("gateway", "Deployment", (*POD, "securityContext", "runAsUser"), 0),
    ("gateway", "Deployment", (*POD, "containers", 0, "securityContext", "readOnlyRootFilesystem"), False),
    ("gateway", "Deployment", (*POD, "containers", 0, "securityContext", "capabilities"), {"add": ["NET_ADMIN"]}),
    ("gateway", "Deployment", (*POD, "containers", 0, "resources", "limits", "cpu"), "1"),
    ("gateway", "Deployment", (*POD, "containers", 0, "resources", "limits", "memory"), "64Mi"),
    ("gateway", "Deployment", (*POD, "containers", 0, "livenessProbe", "httpGet", "path"), "/readyz"),
    ("gateway", "Deployment", (*POD, "containers", 0, "readinessProbe", "httpGet", "port"), "http"),
    ("gateway", "Deployment", (*POD, "containers", 0, "command", 1), "serve"),
    ("gateway", "Deployment", ("spec", "strategy"), {"type": "Recreate"}),
    ("gateway", "Deployment", ("spec", "strategy", "rollingUpdate", "maxUnavailable"), 1),
    ("gateway", "Deployment", ("spec", "template", "metadata", "annotations", "prometheus.io/port"), "9090"),
    ("gateway", "Service", ("spec", "ports", 0, "targetPort"), "health"),
    ("gateway", "Service", ("spec", "selector"), {}),
    ("gateway", "PodDisruptionBudget", ("spec", "maxUnavailable"), 0),
    ("gateway", "NetworkPolicy", ("spec", "ingress", 0, "from"), []),
    ("gateway", "NetworkPolicy", ("spec", "egress", 1, "ports", 0, "port"), 8443),
    ("login", "Deployment", ("spec", "replicas"), 2),
    ("login", "Deployment", ("spec", "strategy"), {"type": "RollingUpdate"}),
    ("login", "Deployment", (*POD, "terminationGracePeriodSeconds"), 90),
    ("replicas", "Deployment", ("spec", "strategy", "rollingUpdate", "maxSurge"), 0),
    ("replicas", "Deployment", ("spec", "strategy"), {"type": "Recreate"}),
    ("replicas", "Deployment", (*POD, "topologySpreadConstraints"), []),
    ("replicas", "Deployment", (*POD, "topologySpreadConstraints", 0, "labelSelector", "matchLabels"), {"app": "other"}),
    ("replicas", "Deployment", (*POD, "volumes", 1), {"name": "secrets", "emptyDir": {}}),
    ("replicas", "PodDisruptionBudget", ("spec", "maxUnavailable"), 3),
    ("replicas", "NetworkPolicy", ("spec", "egress", 2, "ports", 0, "port"), 6380),
    ("sidecar", "Deployment", (*POD, "initContainers", 0, "restartPolicy"), "OnFailure"),
]


def kubectl(folder):
    command = ["kubectl", "kustomize", str(folder)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    return list(yaml.safe_load_all(rendered.stdout))


def validate(documents):
    """What Kubernetes' own schemas refuse. PodMonitor belongs to the Prometheus operator."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all([one for one in documents if one["kind"] != "PodMonitor"], file)
        file.flush()
        command = ["kubernetes-validate", "-k", VERSION, "--strict", "--quiet", file.name]
        result = subprocess.run(command, capture_output=True, text=True)
    return [] if result.returncode == 0 else [f"kubernetes-validate: {result.stdout}{result.stderr}"]


def planted(document, keys, value):
    *path, last = keys
    for key in path:
        document = document[key]
    document[last] = value


def version():
    """The version of bearerd."""
    return tomllib.loads((ROOT.parents[1] / "Cargo.toml").read_text())["package"]["version"]


def check(folder, bearerd):
    documents = kubectl(folder)
    found = validate(documents) + workload.faults(documents) + workload.run(documents, bearerd)
    image = workload.Workload(documents).container["image"]
    if folder.name != "base" and image != f"registry.example.com/bearerd:{version()}":
        found.append(f"the image is {image}")
    return documents, found


def main():
    bearerd, found, rendered = sys.argv[1], [], {}
    folders = [ROOT / "base", *sorted((ROOT / "overlays").iterdir())]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for folder, (documents, of_folder) in zip(folders, pool.map(lambda one: check(one, bearerd), folders)):
            rendered[folder.name] = documents
            found += [f"{folder.name}: {fault}" for fault in of_folder]
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        text = "resources: [../overlays/gateway]\ncomponents: [../components/pod-monitor]\nnamespace: bearerd\n"
        pathlib.Path(folder, "kustomization.yaml").write_text(text)
        found += [f"pod-monitor: {fault}" for fault in workload.faults(kubectl(folder))]
    for name, kind, keys, value in PLANTED:
        documents = copy.deepcopy(rendered[name])
        (document,) = workload.of_kind(documents, kind)
        planted(document, keys, value)
        if not workload.faults(documents):
            found.append(f"{name}: {kind} with {'.'.join(map(str, keys))} = {value!r} is not found")
    documents = copy.deepcopy(rendered["gateway"])
    (config_map,) = workload.of_kind(documents, "ConfigMap")
    config_map["data"]["proxy.toml"] = config_map["data"]["proxy.toml"].replace("drain_delay", "drain_delays")
    if not any("drain_delays" in fault for fault in workload.run(documents, bearerd)):
        found.append("gateway: an unknown key in proxy.toml is not found")
    print("\n".join(found))
    print(f"figure: {len(folders)} kustomizations of Kubernetes {VERSION}, {len(PLANTED) + 1} planted faults found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
