"""What happens when Redis stops, dies or forgets in the middle of a window."""

import signal
import time

import processes as started
from scenarios import EVEN, GATEWAYS, LEASE, STRICT
from traffic import Stage, Traffic

LIMIT, RATE, SECONDS = 16_000, 1500, 16
HAPPENS_AFTER, STOPPED_FOR, DEAD_FOR = 4, 5, 1
# A run has to fit into a minute.
NEEDS = SECONDS + 5

STOP, KILL, FLUSH = "stop", "kill", "flush"
TITLES = {
    STOP: f"Redis stands still for {STOPPED_FOR} s (SIGSTOP)",
    KILL: f"Redis dies (SIGKILL) and is back empty after {DEAD_FOR} s",
    FLUSH: "FLUSHALL",
}
RUNS = [(LEASE, STOP), (LEASE, KILL), (LEASE, FLUSH), (STRICT, STOP), (STRICT, KILL), (STRICT, FLUSH)]
SCALED = f"{RATE}/s against {LIMIT:,}/min for {SECONDS} s, N = {GATEWAYS}; it happens after {HAPPENS_AFTER} s"


def limits(way):
    """The limit as a revision has it."""
    return [{"name": "limit", "rate": f"{LIMIT}/m", "window": "fixed", "max_overrun": f"{100 * way.overrun:g}%"}]


def measure(processes, binaries, fleet, redis, api, way, what):
    """One run. Redis is as it was before when this is over, whatever happens."""
    before = fleet.metrics()
    traffic = Traffic(processes, binaries, fleet, f"/{api}", [Stage(EVEN, RATE * SECONDS, rate=RATE)])
    time.sleep(HAPPENS_AFTER)
    back = harm(redis, what)
    watched = watch(fleet, redis, back)
    traffic.finish()
    time.sleep(1.2)
    after = fleet.metrics()
    windows = traffic.windows(60, LIMIT)
    credit = GATEWAYS * int(way.overrun * LIMIT / GATEWAYS + 1e-9)
    return {
        "outage": what,
        "title": TITLES[what],
        "way": way.title,
        "limit": LIMIT,
        "windows": windows,
        "admitted_of_limit": max(window["of_limit"] for window in windows),
        "bound_while_redis_answers": (LIMIT + credit) / LIMIT,
        "statuses": traffic.statuses(),
        "latency_ms": {"200": traffic.latency(200), "all": traffic.latency()},
        "waits": difference(before, after, "tollgate_throttle_waits_total"),
        "healed": sum(difference(before, after, "tollgate_throttle_healed_total").values()),
        "generator_behind_ms": max(report["behind_us"] for report in traffic.reports) / 1000,
        **watched,
    }


def harm(redis, what):
    """Does it; when Redis was back, as monotonic time."""
    if what == STOP:
        redis.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(STOPPED_FOR)
        finally:
            redis.process.send_signal(signal.SIGCONT)
    elif what == KILL:
        redis.kill()
        time.sleep(DEAD_FOR)
        redis.start()
    else:
        redis.store.ask("FLUSHALL SYNC")
    return time.monotonic()


def watch(fleet, redis, back):
    """After how many seconds the first order of tickets was answered, and after how many every gateway had sent one: they
    send none while they take Redis for away."""
    trades = redis.store.commands().get("incrby", 0)
    sent = {gateway.port: commands_sent(gateway.metrics()) for gateway in fleet.gateways}
    first, traded = None, {}
    while time.monotonic() < back + 6 and len(traded) < len(sent):
        if first is None and redis.store.commands().get("incrby", 0) > trades:
            first = time.monotonic() - back
        for gateway in fleet.gateways:
            metrics = gateway.metrics()
            up = started.store_is_up(metrics)
            if gateway.port not in traded and up and commands_sent(metrics) > sent[gateway.port]:
                traded[gateway.port] = time.monotonic() - back
        time.sleep(0.01)
    return {
        "first_trade_after_s": first,
        "all_trade_after_s": max(traded.values()) if len(traded) == len(sent) else None,
        "gateways_that_traded": len(traded),
    }


def commands_sent(metrics):
    return sum(value for name, value in metrics.items() if name.startswith("tollgate_throttle_store_commands_total{"))


def difference(before, after, name):
    """What the samples of a metric have grown by, by their labels."""
    grown = {}
    for sample, value in after.items():
        if sample == name or sample.startswith(name + "{"):
            grown[sample[len(name) :]] = value - before.get(sample, 0)
    return {labels: value for labels, value in grown.items() if value}
