#!/usr/bin/env python3
"""What eight gateways that share limits through Redis let in, what it costs, and what happens when Redis is away.

    python3 loadtest/throttle/run.py [--quick] [--only A,B,outages,memory]

Real gateway processes and a real Redis on this machine, under the patterns of `scenarios.py`, with limits kept in several
ways: by leases with 5 % overrun allowed and with none, by a token bucket, by asking Redis for every request
(`lease: 0ms`), and by giving each gateway its part (no Redis). What was admitted is what the clients were told, by
calendar window; a request that was sent in one and answered in the next counts as surely admitted in neither. It is held
against what the gateways counted themselves.

Takes about ten minutes, a good part of it waiting for windows to begin; --quick takes less than two. Writes
`loadtest/results/throttle-*.json` and the same as a table. Exit code 1 if a bound was broken while Redis answered, or if it
could not be finished.

Uses loopback only. Needs redis-server and cargo; ends what it started, whatever happens.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import memory
import outages
import scenarios
from processes import (
    Failed,
    Fleet,
    Processes,
    RedisServer,
    commit,
    description,
    find,
    free_ports,
    machine_seconds,
    need,
    wait_for_port,
)
from scenarios import ALONE, EVEN, EVERY_REQUEST, FAR, GATEWAYS, SHARED
from store import round_trips
from traffic import Stage, Traffic

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results"

MINUTE = 60
# A token may be spent for so long after it was asked for, in seconds.
TOKEN_LIFE = 0.2
FAR_MILLISECONDS = 20
# Tickets that nobody uses go back after a second; they are part of what a run costs.
REFUND_AFTER = 1.2
# From which part of the machine on others make a run worth a mark.
OTHERS_MARKED = 0.05


def main():
    options = arguments()
    need("throttle", "redis-server")
    names = ["tollgate", "fixed_origin", "pace"]
    binaries = find("throttle", *names, build=not options.no_build, directory=options.binaries)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tollgate-throttle-") as directory:
        with Processes(pathlib.Path(directory)) as processes:
            bench = Bench(options, binaries, processes)
            bench.run()
    return report(options, bench, time.monotonic() - began)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of it, in less than two minutes")
    parser.add_argument("--only", help="scenarios by letter, `outages`, `memory`; separated by commas")
    parser.add_argument("--no-build", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--binaries", type=pathlib.Path, help="directory to take binaries from; implies --no-build")
    options = parser.parse_args()
    known = {scenario.name for scenario in scenarios.everything()} | {"outages", "memory"}
    options.only = set(options.only.split(",")) if options.only else known
    if options.only - known:
        parser.error(f"there is no {', '.join(sorted(options.only - known))}; there are {', '.join(sorted(known))}")
    return options


class Bench:
    """All runs, one fleet of gateways after the other."""

    def __init__(self, options, binaries, processes):
        self.options, self.binaries, self.processes = options, binaries, processes
        self.runs, self.outages, self.memory, self.failures = [], [], None, []

    def run(self):
        for kind in [SHARED, FAR, EVERY_REQUEST, ALONE]:
            self.attempt(self.run_fleet, kind, self.planned(kind), [])
        # Each with a fleet of its own: what one outage leaves behind is not seen by the next.
        for harmed in self.planned_outages():
            self.attempt(self.run_fleet, SHARED, [], [harmed])
        if "memory" in self.options.only:
            self.attempt(self.run_memory)

    def attempt(self, measure, *arguments):
        """What fails is said at the end, and what was measured until then is kept."""
        try:
            measure(*arguments)
        except Failed as failed:
            self.failures.append(str(failed))
            print(f"not finished: {failed}", flush=True)
        finally:
            for process in list(self.processes.running):
                self.processes.end(process)

    def run_memory(self):
        self.memory = memory.measure(self.processes, self.binaries, self.options.quick)
        print(f"memory: {self.memory['gateway_bytes_per_counter']:.0f} bytes per counter", flush=True)

    def run_fleet(self, kind, planned, harmed):
        if not planned and not harmed:
            return
        # Every run has a limit of its own, so none sees what another has used.
        apis = {api_of(scenario, way): scenario.limits(way) for scenario, way in planned}
        apis |= {f"{what}-{way.name}": outages.limits(way) for way, what in harmed}
        redis = None if kind == ALONE else RedisServer(self.processes)
        throttle = {"lease": "0ms"} if kind == EVERY_REQUEST else {}
        port = self.far_away(redis) if kind == FAR else redis and redis.port
        fleet = Fleet(self.processes, self.binaries, GATEWAYS, apis, throttle, port)
        Traffic(self.processes, self.binaries, fleet, "/warm", [Stage(EVEN, 400 * GATEWAYS)]).finish()
        while planned:
            scenario, way = next_that_fits(planned)
            planned.remove((scenario, way))
            done = self.measure(fleet, redis, scenario, way)
            self.runs.append(done)
            print(line(done), flush=True)
        for way, what in harmed:
            if seconds_left() < outages.NEEDS:
                sleep_to_window()
            done = outages.measure(self.processes, self.binaries, fleet, redis, f"{what}-{way.name}", way, what)
            self.outages.append(done)
            print(outage_line(done), flush=True)
        fleet.end()
        if redis:
            redis.kill()

    def planned(self, kind):
        """What is to be run with this fleet."""
        return [
            (scenario, way)
            for scenario in scenarios.everything()
            for way in scenario.ways
            if way.fleet == kind
            and scenario.name in self.options.only
            and (not self.options.quick or (scenario.name, way.name) in scenarios.QUICK)
        ]

    def planned_outages(self):
        if "outages" not in self.options.only:
            return []
        return outages.RUNS[:1] if self.options.quick else outages.RUNS

    def far_away(self, redis):
        """A port where the same Redis is, but slower."""
        (port,) = free_ports(1)
        command = [sys.executable, HERE / "delay.py", port, redis.port, FAR_MILLISECONDS]
        wait_for_port(port, self.processes.start(command))
        return port

    def measure(self, fleet, redis, scenario, way):
        at = sleep_to_crossing(scenario.seconds() / 2) if scenario.crosses else None
        before, machine, ours = fleet.metrics(), machine_seconds(), self.processes.cpu_seconds()
        store_before = (redis.store.commands(), redis.store.cpu_seconds()) if redis else ({}, 0)
        began = time.monotonic()
        traffic = Traffic(self.processes, self.binaries, fleet, f"/{api_of(scenario, way)}", scenario.stages, at).finish()
        if redis:
            time.sleep(REFUND_AFTER)
        store_after = (redis.store.commands(), redis.store.cpu_seconds()) if redis else ({}, 0)
        took = time.monotonic() - began
        others = machine_seconds() - machine - (self.processes.cpu_seconds() - ours)
        after = fleet.metrics()
        commands = {name: calls - store_before[0].get(name, 0) for name, calls in store_after[0].items()}
        commands = {name: calls for name, calls in commands.items() if calls}
        waits = outages.difference(before, after, "tollgate_throttle_waits_total")
        requests = traffic.requests()
        done = {
            "scenario": scenario.name,
            "title": scenario.title,
            "scaled": scenario.scaled,
            "way": way.title,
            "limit": f"{scenario.limit}/{scenario.unit}",
            "requests": requests,
            "offered_per_second": requests / traffic.seconds(),
            "statuses": traffic.statuses(),
            **admitted(traffic, scenario, way),
            "commands": commands,
            "commands_per_1000": 1000 * round_trips(commands) / requests,
            "waited": sum(waits.values()) / requests,
            "waits": waits,
            "wait_p99_at_most_ms": wait_quantile(before, after, 0.99),
            "latency_ms": {"200": traffic.latency(200), "429": traffic.latency(429)},
            "overshoot": overshoot(before, after),
            "redis_cpu": (store_after[1] - store_before[1]) / took,
            "redis_cpu_us_per_request": 1e6 * (store_after[1] - store_before[1]) / requests,
            "generator_behind_ms": max(report["behind_us"] for report in traffic.reports) / 1000,
            "others": max(0, others) / took / os.cpu_count(),
        }
        check_counted(traffic, outages.difference(before, after, "tollgate_throttle_decisions_total"), done)
        return done


def api_of(scenario, way):
    return f"{scenario.name.lower().replace('/', '-')}-{way.name}"


def admitted(traffic, scenario, way):
    """What was let in, beside what may be."""
    credit, limit = scenario.credit(way), scenario.limit
    if way.bucket:
        rate = limit / scenario.period()
        seconds = traffic.seconds()
        possible = min(limit + rate * seconds, traffic.requests())
        excess, allowed = traffic.most_beyond(rate), limit + rate * TOKEN_LIFE + credit
        return {
            "admitted_max": excess / limit,
            "admitted_min": traffic.count(200) / possible,
            "bound": allowed / limit,
            "bound_holds": excess <= allowed,
        }
    windows = traffic.windows(scenario.period(), limit)
    # What a static part gives is no bound on the limit: where it is less than one request, each lets one in.
    allowed = max(1, limit // GATEWAYS) * GATEWAYS if way.divided else limit + credit
    return {
        "windows": windows,
        "admitted_max": max(window["of_limit"] for window in windows),
        "admitted_min": min(window["of_possible"] for window in windows),
        "bound": allowed / limit,
        "bound_holds": all(window["admitted"] <= allowed for window in windows),
    }


def check_counted(traffic, decisions, done):
    """The gateways counted what the clients were told; else something else was measured. A request that got no answer, or
    another one, is said."""
    allowed = sum(value for labels, value in decisions.items() if 'decision="allow"' in labels)
    refused = sum(value for labels, value in decisions.items() if 'decision="deny"' in labels)
    told = traffic.count(200), traffic.count(429)
    if (allowed, refused) != told and set(done["statuses"]) == {"200", "429"}:
        raise Failed(f"{done['scenario']}: gateways counted {(allowed, refused)}, clients were told {told}")
    done["counted"] = {"allow": allowed, "deny": refused}


def wait_quantile(before, after, part):
    """The upper bound of the bucket in which this part of the waits ends, in milliseconds; None without waits."""
    buckets = histogram(before, after, "tollgate_throttle_wait_seconds")
    all_of_them = buckets[-1][1] if buckets else 0
    for bound, count in buckets:
        if all_of_them and count >= part * all_of_them:
            return 1000 * bound if bound != float("inf") else "more"
    return None


def overshoot(before, after):
    """Charged debts by the part of them that lay beyond the limit: upper bound of the bucket → how many."""
    buckets = histogram(before, after, "tollgate_throttle_overshoot")
    counts, below = {}, 0
    for bound, count in buckets:
        if count > below:
            counts[f"{bound:g}"] = count - below
        below = count
    return counts


def histogram(before, after, name):
    """Upper bounds with how many values lie below them, by bound."""
    grown = outages.difference(before, after, f"{name}_bucket")
    return sorted((float(re.search(r'le="([^"]+)"', labels).group(1)), count) for labels, count in grown.items())


def seconds_left():
    """Until the end of the minute."""
    return MINUTE - time.time() % MINUTE


def sleep_to_window():
    time.sleep(seconds_left() + 0.2)


def sleep_to_crossing(ahead):
    """Waits until so many seconds are left of the minute, nearly; the exact time."""
    needed = ahead + 1
    wait = seconds_left() - needed
    if wait < 0:
        wait += MINUTE
    time.sleep(wait)
    return time.time() + seconds_left() - ahead


def next_that_fits(planned):
    """What can be run now: what goes over the end of the minute if it is time for it, else what ends before. Waits if there is
    no such thing."""
    while True:
        left = seconds_left()
        crossing = [each for each in planned if each[0].crosses]
        if crossing and (len(crossing) == len(planned) or left < crossing[0][0].seconds() / 2 + 8):
            if left < crossing[0][0].seconds() / 2 + 1:
                sleep_to_window()
                continue
            return crossing[0]
        # Before a crossing, only what leaves time for it.
        reserved = crossing[0][0].seconds() / 2 + 2 if crossing else 0
        for each in planned:
            takes = each[0].seconds() + 2 * REFUND_AFTER + 1
            if not each[0].crosses and (takes < left - reserved or (each[0].unit == "s" and not crossing)):
                return each
        if crossing:
            return crossing[0]
        sleep_to_window()


def line(done):
    latency = done["latency_ms"]["200"] or {"p50": 0, "p99": 0}
    return (
        f"{done['scenario']:4} {done['way']:25} admitted {done['admitted_min']:.3f}…{done['admitted_max']:.3f}"
        f" of {done['bound']:.3f}{'' if done['bound_holds'] else ' BROKEN'}"
        f"  {done['commands_per_1000']:.1f} commands/1000  waited {100 * done['waited']:.2f} %"
        f"  p50 {latency['p50']:.2f} p99 {latency['p99']:.2f} ms  {done['statuses']}  others {100 * done['others']:.0f} %"
    )


def outage_line(done):
    return (
        f"{done['outage']:5} {done['way']:12} admitted {done['admitted_of_limit']:.3f}"
        f"  slowest {done['latency_ms']['all']['max']:.0f} ms  first trade after {seconds(done['first_trade_after_s'])}"
        f", all after {seconds(done['all_trade_after_s'])}  healed {done['healed']:.0f}  {done['statuses']}"
    )


def seconds(value):
    return "never" if value is None else f"{value:.2f} s"


def report(options, bench, took):
    order = {scenario.name: number for number, scenario in enumerate(scenarios.everything())}
    bench.runs.sort(key=lambda done: order[done["scenario"]])
    raw = {
        "what": "limits shared by eight gateway processes through a Redis, under several patterns of traffic",
        "commit": commit(),
        "machine": description(),
        "redis": redis_version(),
        "options": {"quick": options.quick, "only": sorted(options.only), "gateways": GATEWAYS},
        "seconds": took,
        "failures": bench.failures,
        "runs": bench.runs,
        "outages": bench.outages,
        "outages_scaled": outages.SCALED,
        "memory": bench.memory,
    }
    text = table(raw)
    print(f"\n{text}")
    RESULTS.mkdir(exist_ok=True)
    stem = f"throttle-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for suffix, content in [(".json", json.dumps(raw, indent=2) + "\n"), (".md", text)]:
        (RESULTS / f"{stem}{suffix}").write_text(content)
    print(f"raw data  {(RESULTS / stem).relative_to(ROOT)}.json")
    broken = [f"{done['scenario']} {done['way']}" for done in bench.runs if not done["bound_holds"]]
    if broken:
        print(f"throttle: more was let in than the bound allows: {', '.join(broken)}", file=sys.stderr)
    for failure in bench.failures:
        print(f"throttle: not finished: {failure}", file=sys.stderr)
    return 1 if broken or bench.failures else 0


def table(raw):
    """Everything that matters, as Markdown."""
    machine = raw["machine"]
    lines = [
        f"Commit {raw['commit']}, {machine['processors']} x {machine['model']}, Linux {machine['kernel']},"
        f" {raw['redis']}, {GATEWAYS} gateways of one thread each; {raw['seconds'] / 60:.1f} minutes.",
        "",
    ]
    if raw["runs"]:
        lines += [
            "| scenario | limit kept by | admitted/L, max | min | bound | commands/1,000 requests | waited"
            " | wait p99 | p50 / p99 of admitted | Redis CPU | beyond the limit |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *map(row, raw["runs"]),
            "",
            "Admitted/L is by calendar window. The maximum counts what was surely admitted in it; the minimum is of what"
            " was possible (the limit, or what was offered if that is less). Within 3 ms of the end of a window nothing is sure. Of a token bucket, the maximum and its bound"
            " are what came beyond its rate in the worst of all stretches of time, as a part of the burst. Waited: share of requests"
            " that waited for Redis; p99 of these waits, as the upper bound of its bucket. Beyond the limit: charged debts"
            " by how much of them lay beyond it (at most, as a part of the limit). * other programs used more than"
            f" {100 * OTHERS_MARKED:.0f} % of the machine.",
            "",
            *scaling(raw["runs"]),
            "",
        ]
    if raw["outages"]:
        lines += [
            "| what happens | limit kept by | admitted/L | bound while Redis answers | slowest request | first trade | all trade"
            " | counters healed |",
            "|---|---|---|---|---|---|---|---|",
            *map(outage_row, raw["outages"]),
            "",
            f"{raw['outages_scaled']}. Times are from the moment at which Redis was back, or had forgotten.",
            "",
        ]
    if raw["memory"]:
        lines += memory_lines(raw["memory"])
    return "\n".join(lines)


def row(done):
    latency = done["latency_ms"]["200"]
    cells = [
        f"{done['scenario']} {done['title']}{' *' if done['others'] > OTHERS_MARKED else ''}",
        done["way"],
        f"{done['admitted_max']:.3f}{'' if done['bound_holds'] else ' **broken**'}",
        f"{done['admitted_min']:.3f}",
        f"{done['bound']:.3f}",
        f"{done['commands_per_1000']:.1f} ({by_command(done)})" if done["commands"] else "0",
        f"{100 * done['waited']:.2f} %",
        "" if done["wait_p99_at_most_ms"] is None else f"{done['wait_p99_at_most_ms']} ms",
        f"{latency['p50']:.2f} / {latency['p99']:.2f} ms" if latency else "",
        f"{100 * done['redis_cpu']:.1f} %",
        ", ".join(f"≤ {bound}: {count:.0f}" for bound, count in done["overshoot"].items()),
    ]
    return f"| {' | '.join(cells)} |"


def by_command(done):
    return ", ".join(f"{name} {calls}" for name, calls in sorted(done["commands"].items(), key=lambda each: -each[1]))


def scaling(runs):
    return [f"- {name}: {text}" for name, text in {done["scenario"]: done["scaled"] for done in reversed(runs)}.items()][::-1]


def outage_row(done):
    cells = [
        done["title"],
        done["way"],
        f"{done['admitted_of_limit']:.3f}",
        f"{done['bound_while_redis_answers']:.3f}",
        f"{done['latency_ms']['all']['max']:.0f} ms",
        "" if done["outage"] == outages.FLUSH else seconds(done["first_trade_after_s"]),
        "" if done["outage"] == outages.FLUSH else seconds(done["all_trade_after_s"]),
        f"{done['healed']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def memory_lines(figures):
    more = figures["after_more"]
    return [
        f"A limit per address and {figures['addresses']:,} addresses, at {figures['requests_per_second']:,.0f}/s:"
        f" {figures['gateway_bytes_per_counter']:.0f} bytes of the gateway's memory for each counter"
        f" ({mebibytes(figures['gateway_bytes_before'])} before, {mebibytes(figures['gateway_bytes_settled'])} after),"
        f" {figures['redis_bytes_per_key']:.0f} bytes of Redis' for each of {figures['redis_keys']:,} keys;"
        f" {figures['counters_held']:,.0f} counters held, {figures['evictions']:,.0f} evicted."
        f" With {more['addresses']:,} addresses: {mebibytes(more['gateway_bytes'])}, {more['counters_held']:,.0f} held,"
        f" {more['evictions']:,.0f} evicted.",
        "",
    ]


def mebibytes(count):
    return f"{count / (1 << 20):.0f} MiB"


def redis_version():
    output = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\S+)", output)
    return f"Redis {found.group(1)}" if found else output.strip()


if __name__ == "__main__":
    sys.exit(main())
