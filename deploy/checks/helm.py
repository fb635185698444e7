"""Lints and renders deploy/helm/bearerd with Helm's library, and checks the result: helm.py PATH_OF_BEARERD"""

import concurrent.futures
import pathlib
import shutil
import sys
import tempfile

import yaml

import kubernetes
import workload

try:
    import helm_python as helm
except ImportError as error:
    sys.exit(f"missing tool: helm_python (pip install helm-python-sdk, pinned in deploy/requirements.txt): {error}")

CHART = pathlib.Path(__file__).parents[1] / "helm" / "bearerd"
NAMESPACE = "gateways"
# Values that values.schema.json or a template must refuse.
REFUSED = [
    {"config": ""},
    {"extraConfig": "[server]"},
    {"mode": "daemonset"},
    {"replica": 3},
    {"replicas": "two"},
    {"replicas": 0},
    {"server": {"drain": 20}},
    {"server": {"drainDelays": "5s"}},
    {"server": {"allowFrom": []}},
    {"server": {"workers": 0}},
    {"image": {"digest": "sha256:12"}},
    {"image": {"repository": ""}},
    {"podMonitor": {"enabled": "yes"}},
    {"networkPolicy": {"callers": []}},
    {"networkPolicy": {"callers": [{}]}},
    {"env": [{"value": "x"}]},
    {"state": {"enabled": True}},
    {"shared": {"enabled": True}},
    {"shared": {"enabled": True, "url": "https://valkey:6379"}},
    {"shared": {"enabled": True, "url": "rediss://bearerd:secret@valkey:6379"}},
    {"shared": {"enabled": True, "url": "rediss://valkey", "key": {"key": ""}}},
    {"shared": {"enabled": True, "url": "rediss://valkey", "password": "secret"}},
    {"shared": {"enabled": True, "url": "rediss://valkey", "whenAway": "go on"}},
    {"shared": {"enabled": True, "url": "rediss://valkey"}, "state": {"enabled": True}},
    {"shared": {"enabled": True, "url": "rediss://valkey"}, "config": "", "extraConfig": "[server]"},
]
# The chart of an application, with bearerd as its sidecar, as docs/deploy/kubernetes.md shows it.
APPLICATION = pathlib.Path(__file__).parents[1] / "helm" / "application"


def documents(chart, values, name):
    rendered = chart.render(values, name=name, namespace=NAMESPACE)
    files = {path: text for path, text in rendered.items() if not path.endswith((".txt", ".tpl"))}
    every = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    notes = "".join(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
    return every, notes


def check(chart, values, name, bearerd):
    every, notes = documents(chart, values, name)
    found = kubernetes.validate(every) + workload.faults(every) + workload.run(every, bearerd)
    mounts = workload.Workload(every).mounts
    secrets = [mounts["/run/secrets/bearerd"]["secret"]["secretName"]]
    shared = mounts.get("/run/secrets/bearerd-shared", {"projected": {"sources": []}})["projected"]["sources"]
    secrets += [f'{one["secret"]["items"][0]["key"]} in "{one["secret"]["name"]}"' for one in shared]
    for secret in secrets if notes else []:
        if secret not in notes:
            found.append(f"the notes do not name the Secret {secret}")
    return found


def lint(folder, values):
    report = helm.lint(folder, values, strict=True, namespace=NAMESPACE, kube_version="v" + kubernetes.VERSION + ".0")
    findings = [one for one in report["messages"] if one["severity"] >= 2]
    return [f"helm lint: {one['path']}: {one['error']}" for one in findings] + report["errors"]


def is_refused(chart, values):
    try:
        chart.validate_schema(values)
        chart.render(values, name="bearerd", namespace=NAMESPACE)
    except helm.HelmError:
        return True
    return False


def main():
    bearerd, found, cases = sys.argv[1], [], {}
    with tempfile.TemporaryDirectory() as folder, helm.Chart.load(CHART) as chart:
        application = pathlib.Path(shutil.copytree(APPLICATION, pathlib.Path(folder, "application")))
        shutil.copytree(CHART, application / "charts" / "bearerd")
        with concurrent.futures.ThreadPoolExecutor() as pool, helm.Chart.load(application) as with_sidecar:
            for file in sorted((CHART / "ci").iterdir()):
                values = yaml.safe_load(file.read_text())
                name = file.name.removesuffix("-values.yaml")
                if values.get("mode") == "sidecar":
                    values = {"bearerd": values}
                    found += [f"{name}: {one}" for one in lint(application, values)]
                    cases[name] = pool.submit(check, with_sidecar, values, "shop", bearerd)
                else:
                    found += [f"{name}: {one}" for one in lint(CHART, values)]
                    chart.validate_schema(values)
                    cases[name] = pool.submit(check, chart, values, "bearerd", bearerd)
            for name, case in cases.items():
                found += [f"{name}: {fault}" for fault in case.result()]
            version = kubernetes.version()
            if {chart.version, chart.metadata["appVersion"], with_sidecar.dependencies[0]["version"]} != {version}:
                found.append(f"the version of a chart is not {version}")
        config = yaml.safe_load((CHART / "ci" / "gateway-values.yaml").read_text())
        for values in REFUSED:
            if not is_refused(chart, {**config, **values}):
                found.append(f"the values {values} are not refused")
        found += [] if not is_refused(chart, config) else ["the values of ci/gateway-values.yaml are refused"]
    print("\n".join(found))
    print(f"figure: {len(cases)} sets of values with Helm {helm.helm_sdk_version()}, {len(REFUSED)} refused")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
