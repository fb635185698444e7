"""Asks a Prometheus that scrapes bearerd: prometheus.py METRICS_URL PROMETHEUS_URL DASHBOARD|native

Parses the exposition with the parsers of prometheus_client, expects the scrapes of Prometheus to be without an error, and
expects data from every expression of the dashboard, or native histograms. The row "Replicas" has data only with `[shared]`,
"API quotas" only with `api_quota`, and "Pools" only with `[pools]`, which this daemon does not have: Prometheus accepts their
expressions, and answers none.
"""

import json
import sys
import time
import urllib.parse
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

DEADLINE = 30  # seconds
# Rows without data, and how the names of their metrics begin.
WITHOUT_DATA = {"Replicas": "bearerd_shared_", "API quotas": "bearerd_api_quota_", "Pools": "bearerd_pool_member_"}
NATIVE = ["http_server_request", "http_client_request", "bearerd_token_request"]
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url, **headers):
    with opener.open(urllib.request.Request(url, headers=headers), timeout=DEADLINE) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def query(server, expression):
    _, text = get(f"{server}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    return json.loads(text)["data"]["result"]


def parse(metrics):
    for accept, expected, parser in [(OPENMETRICS, OPENMETRICS, openmetrics), ("*/*", TEXT, prometheus_text)]:
        content_type, text = get(metrics, Accept=accept)
        assert content_type == expected, f"{accept}: {content_type}"
        families = {family.name: family for family in parser(text)}
        samples = families["http_server_request_duration_seconds"].samples
        assert any(sample.value > 0 for sample in samples), f"{accept}: no request"


def expressions(dashboard):
    """Row, title and expression."""
    with open(dashboard, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    row = None
    for panel in panels:
        row = panel["title"] if panel["type"] == "row" else row
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "15s")
            yield row, panel["title"], expression.replace("$instance", ".*").replace("$job", ".*")


def main():
    metrics, server, dashboard = sys.argv[1:]
    parse(metrics)
    end = time.monotonic() + DEADLINE
    if dashboard == "native":
        # Prometheus scrapes protobuf then, which alone has native histograms.
        wanted = [("native", f"histogram_count({name}_duration_seconds)") for name in NATIVE]
    else:
        every = list(expressions(dashboard))
        wanted = [(title, expression) for row, title, expression in every if row not in WITHOUT_DATA]
        others = [(WITHOUT_DATA[row], expression) for row, _, expression in every if row in WITHOUT_DATA]
        assert {name for name, _ in others} == set(WITHOUT_DATA.values()), others
        assert all(name in expression for name, expression in others), others
        assert not any(query(server, expression) for _, expression in others), others
        assert len(wanted) > 30, f"{len(wanted)} expressions"
    # A rate needs two scrapes.
    while empty := [(title, expression) for title, expression in wanted if not query(server, expression)]:
        assert time.monotonic() < end, f"no data: {empty}"
        time.sleep(0.5)
    _, targets = get(f"{server}/api/v1/targets")
    for target in json.loads(targets)["data"]["activeTargets"]:
        assert (target["health"], target["lastError"]) == ("up", ""), target


main()
