"""What requests cost at a rate, and what the gateway adds to how long they take."""

import statistics

from journey import two_limits
from machine import Failed

VALIDATED, THROTTLED = 3000, 5000
PERCENT = 15
ADDED_US = {"p50": 150, "p99": 1000}
# The pace may fall back by so much; more, and it was another load.
KEPT = 0.98


def rates(bench):
    """The CPU time of requests that are let in, and of requests that are refused for their number."""
    far = bench.gateway(bench.journey.revision(bench.origin, two_limits()))
    yield share(bench, far, VALIDATED, "200", "validated")
    # One for each application, and no more in this hour.
    near = [{"name": "burst", "rate": "1000000/s"}, {"name": "hour", "rate": "1/h"}]
    yield share(bench, bench.gateway(bench.journey.revision(bench.origin, near)), THROTTLED, "429", "throttled")


def share(bench, gateway, rate, status, what):
    seconds = 3 if bench.options.quick else 10
    # Opens connections, fills caches, and uses up what may be used.
    bench.paced(f"127.0.0.1:{gateway.port}", rate, 2)
    runs = [bench.quietly(lambda: bench.costed(gateway, rate, seconds)) for _ in range(3)]
    for run in runs:
        if set(run["statuses"]) != {status}:
            raise Failed(f"{what}: the answers are {run['statuses']}, not only {status}")
    slowest = min(run["per_second"] for run in runs)
    if slowest < KEPT * rate:
        raise Failed(f"{what}: {slowest:,.0f} requests per second came, not {rate:,}")
    counting = [run for run in runs if run["counts"]]
    return {
        "what": f"{rate:,} {what} requests per second",
        "measured": statistics.median(run["cpu_percent"] for run in counting or runs),
        "at_most": PERCENT,
        "unit": "% of a core",
        "digits": 1,
        "holds": statistics.median(run["cpu_percent"] for run in counting or runs) <= PERCENT,
        "counts": bool(counting),
        "runs": runs,
    }


def latency(bench):
    """Alternating with the origin asked directly, so that a drift falls on both."""
    seconds, rounds = (2, 2) if bench.options.quick else (4, 6)
    gateway = bench.gateway(bench.journey.revision(bench.origin, two_limits()))
    bench.saturated(gateway, 1)
    most = bench.saturated(gateway, seconds)
    rate = round(most / 2, -2)
    pairs = []
    for number in range(rounds):
        targets = {"gateway": f"127.0.0.1:{gateway.port}", "direct": bench.origin}
        order = list(targets) if number % 2 else list(targets)[::-1]
        pair = {name: bench.quietly(lambda name=name: bench.paced(targets[name], rate, seconds)) for name in order}
        for name, run in pair.items():
            if set(run["latency_us"]) != {"200"}:
                raise Failed(f"{name}: not every answer was 200: {run['latency_us']}")
        pairs.append(pair)
    counting = [pair for pair in pairs if all(run["counts"] for run in pair.values())]
    for quantile, most_us in ADDED_US.items():
        took = [{name: run["latency_us"]["200"][quantile] for name, run in pair.items()} for pair in counting or pairs]
        added = statistics.median(each["gateway"] - each["direct"] for each in took)
        yield {
            "what": f"{quantile} added at half load ({rate:,.0f}/s)",
            "measured": added,
            "at_most": most_us,
            "unit": "µs",
            "holds": added <= most_us,
            "counts": bool(counting),
            "saturation_per_second": most,
            "took_us": took,
            "runs": pairs,
        }
