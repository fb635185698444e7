"""The output: a table for each case, as wide as a terminal, and the ratios below it."""

import statistics

COLUMNS = {
    "cpu": ("CPU µs", 8, 1), "user": ("user", 7, 1), "system": ("system", 7, 1), "rate": ("req/s", 8, 0),
    "p50": ("p50 ms", 8, 2), "p99": ("p99 ms", 8, 2), "p999": ("p99.9 ms", 9, 2), "resident": ("MiB", 7, 1),
    "idle_kib": ("KiB each", 10, 1), "requests": ("requests", 10, 0), "errors": ("errors", 8, 0),
    "token_requests": ("token requests", 16, 0), "start_ms": ("start ms", 10, 1), "binary_mib": ("binary MiB", 12, 1),
    "slowest": ("slowest ms", 11, 2), "tokens_ms": ("to tokens ms", 14, 0), "rest_percent": ("CPU % at rest", 15, 2),
}
RATIOS = {"cpu": "CPU per request", "scale": "two cores beside one, by CPU", "p50": "p50",
          "p99": "p99", "slowest": "slowest", "rate": "req/s", "idle_kib": "KiB each", "start_ms": "start",
          "resident": "memory", "credential_kib": "KiB for each credential"}
#: The variation of a figure between rounds above which it is printed.
NOISE = 0.15


def show(result, out):
    """Prints a case's figures."""
    print(f"\n{result.title}", file=out)
    if result.proxies:
        keys = list(next(iter(result.proxies.values())))
        width = max(len(name) for name in result.proxies) + 1
        print(" " * width + "".join(f"{COLUMNS[key][0]:>{COLUMNS[key][1]}}" for key in keys), file=out)
        for name, figures in result.proxies.items():
            line = "".join(f"{figures[key]:{COLUMNS[key][1]}.{COLUMNS[key][2]}f}" for key in keys)
            print(f"{name:{width}}{line}", file=out)
    for ratio in result.ratios:
        said = ", ".join(f"{RATIOS[key]} {value:.2f}" for key, value in ratio.items() if key in RATIOS)
        print(f"  {ratio['of']} / {ratio['to']}: {said}", file=out)
    for name, why in result.failed.items():
        print(f"  FAILED: {name}: {why}", file=out)
    for line in result.skipped:
        print(f"  skipped: {line}", file=out)
    for name, rounds in result.rounds.items():
        costs = [one["cpu"] for one in rounds]
        spread = (max(costs) - min(costs)) / statistics.median(costs) if min(costs) else 0
        if spread > NOISE:
            print(f"  noisy: CPU per request of {name} varied by {spread:.0%} between rounds", file=out)
    out.flush()
