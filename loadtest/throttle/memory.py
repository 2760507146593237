"""What a counter takes: in the gateway, and in Redis."""

import json
import subprocess
import time

from processes import Failed, Fleet, RedisServer
from traffic import WITHIN

# A counter that was used once is charged after the sixtieth part of its window, 30 s at most.
CHARGED_WITHIN = 60
COUNTERS, COUNTERS_QUICK = 1_000_000, 100_000


def measure(processes, binaries, quick):
    """A gateway with room for so many counters meets as many addresses, and then a fifth more."""
    counters = COUNTERS_QUICK if quick else COUNTERS
    redis = RedisServer(processes)
    fleet = Fleet(
        processes,
        binaries,
        1,
        {"each": [{"name": "limit", "rate": "1000/d", "per": "ip"}]},
        {"max_counters": counters},
        redis.port,
        {"trusted_proxies": ["127.0.0.0/8"]},
    )
    (gateway,) = fleet.gateways
    # Buffers and caches of connections are no counters.
    send(processes, binaries, gateway, "172.16.0.0", 20_000, "/warm")
    time.sleep(1)
    before, redis_before, commands = gateway.memory(), redis.store.used_memory(), redis.store.commands()
    filling = send(processes, binaries, gateway, "10.0.0.0", counters, "/each")
    at_once = gateway.memory()
    settle(redis, counters)
    after, redis_after, keys = gateway.memory(), redis.store.used_memory(), redis.store.ask("DBSIZE")
    held, evicted = figures(gateway)
    charged = redis.store.commands()
    more = counters // 5
    send(processes, binaries, gateway, "11.0.0.0", more, "/each")
    time.sleep(2)
    held_then, evicted_then = figures(gateway)
    result = {
        "max_counters": counters,
        "addresses": counters,
        "requests_per_second": filling["requests"] / filling["seconds"],
        "latency_us": filling["latency_us"],
        "gateway_bytes_before": before,
        "gateway_bytes_at_once": at_once,
        "gateway_bytes_settled": after,
        "gateway_bytes_per_counter": (after - before) / counters,
        "counters_held": held,
        "evictions": evicted,
        "redis_keys": keys,
        "redis_bytes_per_key": (redis_after - redis_before) / max(keys, 1),
        "redis_commands": {name: calls - commands.get(name, 0) for name, calls in charged.items()},
        "after_more": {
            "addresses": counters + more,
            "counters_held": held_then,
            "evictions": evicted_then,
            "gateway_bytes": gateway.memory(),
            "redis_keys": redis.store.ask("DBSIZE"),
        },
    }
    fleet.end()
    redis.kill()
    return result


def send(processes, binaries, gateway, first, count, path):
    """A request from each of so many addresses."""
    command = [binaries["pace"], "--target", f"127.0.0.1:{gateway.port}", "--path", path, "--count", count]
    command += ["--connections", 64, "--forwarded-for", first]
    process = processes.start(command, stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=WITHIN)
    processes.end(process)
    if process.returncode != 0:
        raise Failed(f"pace: {process.log.read_text(errors='replace')}")
    report = json.loads(output)
    if set(report["latency_us"]) != {"200"}:
        raise Failed(f"not every address was let in: {report['latency_us']}")
    return report


def settle(redis, keys):
    """Waits until every counter has come to Redis, or as long as it may take."""
    until = time.monotonic() + CHARGED_WITHIN
    while time.monotonic() < until and redis.store.ask("DBSIZE") < keys:
        time.sleep(0.5)
    time.sleep(1)


def figures(gateway):
    """Counters held, and evicted."""
    metrics = gateway.metrics()
    return metrics["tollgate_throttle_counters"], metrics["tollgate_throttle_evictions"]
