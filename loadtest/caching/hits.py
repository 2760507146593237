"""What a kept answer costs the gateway beside the same answer fetched."""

import statistics

from machine import Failed

SIZES = {"1 KiB": 1024, "100 KiB": 100 * 1024}
RATIO = 1.5
MEMORY = "64MiB"
# What ended a run is counted a little later, in the next one.
HITS_LEAST = 0.99
WAYS = ["kept", "fetched"]


def hits(bench):
    """Throughput per processor: requests per second of the gateway's processor time, kept over fetched."""
    seconds, rounds = (2, 3) if bench.options.quick else (4, 7)
    gateway = bench.gateway(MEMORY)
    for access in ["open", "keyed"]:
        for name, size in SIZES.items():
            lists = lists_of(bench, access, size)
            pairs = list(paired(bench, gateway, lists, seconds, rounds))
            counting = [pair for pair in pairs if all(run["counts"] for run in pair.values())]
            ratios = [pair["fetched"]["cpu_us"] / pair["kept"]["cpu_us"] for pair in counting or pairs]
            median = {way: {field: of(counting or pairs, way, field) for field in ["cpu_us", "per_second"]} for way in WAYS}
            said = ", ".join(f"{way} {each['cpu_us']:.1f} µs, {each['per_second']:,.0f}/s" for way, each in median.items())
            yield {
                "what": f"{name}, {access}: requests per processor second, kept over fetched",
                "measured": f"{statistics.median(ratios):.2f} ({said})",
                "target": f"≥ {RATIO}",
                "holds": statistics.median(ratios) >= RATIO,
                "counts": bool(counting),
                "ratios": ratios,
                "median": median,
                "pairs": pairs,
            }


def paired(bench, gateway, lists, seconds, rounds):
    for way in WAYS:
        # Opens connections, and fills what is to be filled.
        bench.saturated(gateway, lists[way], 1)
    for number in range(rounds):
        order = WAYS if number % 2 else WAYS[::-1]
        pair = {way: bench.quietly(lambda way=way: bench.saturated(gateway, lists[way], seconds)) for way in order}
        check(pair)
        yield pair


def latency(bench):
    """How long both take at the same pace."""
    seconds, rounds = (2, 2) if bench.options.quick else (4, 5)
    gateway = bench.gateway(MEMORY)
    lists = lists_of(bench, "keyed", SIZES["1 KiB"])
    for way in WAYS:
        bench.saturated(gateway, lists[way], 1)
    most = bench.saturated(gateway, lists["fetched"], seconds)["per_second"]
    rate = max(100, round(most / 2, -2))
    pairs = []
    for number in range(rounds):
        order = WAYS if number % 2 else WAYS[::-1]
        pair = {way: bench.quietly(lambda way=way: bench.paced(gateway, lists[way], rate, seconds)) for way in order}
        check(pair)
        pairs.append(pair)
    counting = [pair for pair in pairs if all(run["counts"] for run in pair.values())]
    for quantile in ["p50", "p99"]:
        took = {
            way: statistics.median(pair[way]["latency_us"]["200"][quantile] for pair in counting or pairs) for way in WAYS
        }
        yield {
            "what": f"1 KiB, keyed: {quantile} at {rate:,.0f} requests per second, half of what can be fetched",
            "measured": f"kept {took['kept']:,.0f} µs, fetched {took['fetched']:,.0f} µs",
            "target": "kept ≤ fetched",
            "holds": took["kept"] <= took["fetched"],
            "counts": bool(counting),
            "took_us": took,
            "pairs": pairs,
        }


def lists_of(bench, access, size):
    return {way: bench.list([f"/{access}/{way}/items/7/bytes/{size}"]) for way in WAYS}


def check(pair):
    """That what is called kept was, and the other was not."""
    if pair["kept"]["hit_share"] < HITS_LEAST or pair["fetched"]["hit_share"] > 1 - HITS_LEAST:
        shares = {way: run["hit_share"] for way, run in pair.items()}
        raise Failed(f"what was answered from memory is not what should have been: {shares}")


def of(pairs, way, field):
    return statistics.median(pair[way][field] for pair in pairs)
