#!/usr/bin/env python3
"""What tollgate costs beside the bare proxy engine, in CPU time per request, measured in one run.

    python3 loadtest/compare/run.py [--rounds 12] [--seconds 3] [--syscalls]

Both proxies are built with the release profile and the same allocator. Each runs on one thread on the first processor;
the load generator (wrk) and the origin share the others. Each round loads one proxy, then the other, and every second
round in the opposite order, so that a drift of the machine's speed falls on both. What is compared is the CPU time
(user and system) of the proxy's process, with all its threads, divided by the requests that were answered in the round.
Absolute times belong to the machine; quote the ratios. A round in which other programs used the machine is measured
again, within bounds: they take the caches away, and more of them from who uses more.

The gateway does its whole work: 10,000 routes in 100 APIs, 100 applications with a hashed key each, two limits far
above the load, metrics on, access log on (every request, to a file). The engine alone does none of it.

Uses loopback only. Needs wrk, taskset and cargo, and strace for --syscalls; ends what it started, whatever happens.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results"

APIS, ROUTES_PER_API, APPLICATIONS = 100, 100, 100
CONNECTIONS = 64
# Share of the machine that other programs may use in a round, and how many rounds are tried for each that counts.
OTHERS_MAX = 0.05
TRIES = 4
TICKS = os.sysconf("SC_CLK_TCK")


def main():
    options = arguments()
    for tool in ["wrk", "taskset", "cargo"] + (["strace"] if options.syscalls else []):
        if shutil.which(tool) is None:
            sys.exit(f"compare: {tool} is missing; on Debian run: sh scripts/install-tools.sh loadtest")
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        sys.exit("compare: needs two processors: one for the proxy, one for the load and the origin")
    binaries = build(options)
    with tempfile.TemporaryDirectory(prefix="tollgate-compare-") as directory, Processes() as processes:
        bench = Bench(options, binaries, pathlib.Path(directory), processes, processors)
        bench.start()
        rounds = bench.rounds()
        syscalls = bench.syscalls() if options.syscalls else None
        report(options, rounds, bench.memory(), syscalls)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="rounds of both proxies (default 12)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds under load per proxy and round (default 3)")
    parser.add_argument("--warmup", type=int, default=3, help="seconds under load that do not count (default 3)")
    parser.add_argument("--syscalls", action="store_true", help="then count system calls per request with strace")
    parser.add_argument("--no-build", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--binaries", type=pathlib.Path, help="directory to take binaries from; implies --no-build")
    return parser.parse_args()


def build(options):
    """Builds all three programs; their paths."""
    if not (options.no_build or options.binaries):
        command = ["cargo", "build", "--release", "--locked", "--bin", "tollgate"]
        command += ["--example", "bare_pingora", "--example", "fixed_origin"]
        subprocess.run(command, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    directory = options.binaries or target
    found = {}
    for name in ["tollgate", "bare_pingora", "fixed_origin"]:
        candidates = [directory / name, directory / "examples" / name]
        found[name] = next((path for path in candidates if path.exists()), None)
        if found[name] is None:
            sys.exit(f"compare: {directory}/{name} is missing")
    return found


class Processes:
    """Everything that was started; ended one by one, by its own handle."""

    def __init__(self):
        self.running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()

    def start(self, command, log):
        with open(log, "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        self.running.append(process)
        return process


def cpu_seconds(process):
    """User and system time of all threads of a process since it started."""
    stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_seconds():
    """Time in which the processors of this machine did anything, for anyone, since it started."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS


class Proxy:
    """One of the two proxies under test."""

    def __init__(self, name, process, port):
        self.name, self.process, self.port = name, process, port

    def switches(self):
        """Context switches of all threads that are alive."""
        total = 0
        for status in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/status"):
            total += sum(int(count) for count in re.findall(r"ctxt_switches:\s+(\d+)", status.read_text()))
        return total

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return {key: int(re.search(rf"{key}:\s+(\d+) kB", status).group(1)) for key in ["VmRSS", "VmHWM"]}


class Bench:
    """Both proxies, the origin behind them, and the load."""

    def __init__(self, options, binaries, directory, processes, processors):
        self.options, self.binaries, self.directory, self.processes = options, binaries, directory, processes
        self.on_proxy = ["taskset", "-c", str(processors[0])]
        self.on_load = ["taskset", "-c", ",".join(map(str, processors[1:]))]
        self.access_log = directory / "access.log"
        self.requests = directory / "requests.txt"

    def start(self):
        origin, bare, gateway, status = free_ports(4)
        self.origin = self.run(self.on_load, self.binaries["fixed_origin"], f"127.0.0.1:{origin}")
        config = self.write_configuration(origin, gateway, status)
        self.bare = Proxy(
            "bare", self.run(self.on_proxy, self.binaries["bare_pingora"], f"127.0.0.1:{bare}", f"127.0.0.1:{origin}", "1"), bare
        )
        self.tollgate = Proxy(
            "tollgate", self.run(self.on_proxy, self.binaries["tollgate"], "run", "--config", config), gateway
        )
        for port in [origin, bare, gateway]:
            self.wait_for(port)
        self.check()

    def run(self, pinned, binary, *command):
        log = self.directory / f"{binary.name}.log"
        return self.processes.start([*pinned, str(binary), *map(str, command)], log)

    def wait_for(self, port):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        logs = [path.read_text(errors="replace") for path in self.directory.glob("*.log")]
        sys.exit(f"compare: nothing listens on port {port}\n" + "\n".join(logs))

    def write_configuration(self, origin, gateway, status):
        keys = [self.new_key(number) for number in range(APPLICATIONS)]
        apis = [api(number) for number in range(APIS)]
        limits = [{"name": "burst", "rate": "1000000/s"}, {"name": "hour", "rate": "1000000000/h"}]
        revision = {
            "version": 1,
            "upstreams": [{"name": "origin", "endpoints": [{"address": f"127.0.0.1:{origin}"}]}],
            "plans": [{"name": "plan", "limits": limits}],
            "apis": apis,
            "applications": [
                {
                    "name": made["application"],
                    "subscriptions": [{"api": each["name"], "plan": "plan"} for each in apis],
                    "keys": [{name: made["record"][name] for name in ["id", "sha256", "type"]}],
                }
                for made in keys
            ],
        }
        config = {
            "server": {"threads": 1},
            "listeners": [{"address": f"127.0.0.1:{gateway}"}],
            "status": {"address": f"127.0.0.1:{status}"},
            "revision": {"file": str(self.directory / "revision.yaml")},
            "telemetry": {"access_log": {"path": str(self.access_log)}},
        }
        (self.directory / "revision.yaml").write_text(json.dumps(revision))
        (self.directory / "tollgate.yaml").write_text(json.dumps(config))
        # 1,000 different requests, so that neither a route nor a key is always the one that was just looked up.
        lines = []
        for number in range(1000):
            name, route = (number * 37) % APIS, (number * 13) % ROUTES_PER_API
            key = keys[number * 7 % APPLICATIONS]["key"]
            lines.append(f"{key} /api-{name:03}/items/{number}/part-{route:03}\n")
        self.requests.write_text("".join(lines))
        return self.directory / "tollgate.yaml"

    def new_key(self, number):
        command = [self.binaries["tollgate"], "key", "new", "--application", f"app-{number:03}", "--output", "json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=10).stdout)

    def check(self):
        """Both answer, and only the gateway asks for a key: else the wrong thing would be measured."""
        key, path = self.requests.read_text().splitlines()[0].split()
        for proxy, headers, expected in [
            (self.bare, {}, 200),
            (self.tollgate, {}, 401),
            (self.tollgate, {"X-API-Key": key}, 200),
        ]:
            request = urllib.request.Request(f"http://127.0.0.1:{proxy.port}{path}", headers=headers)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            try:
                with opener.open(request, timeout=5) as answer:
                    status = answer.status
            except urllib.error.HTTPError as error:
                status = error.code
            if status != expected:
                sys.exit(f"compare: {proxy.name} answered {status} instead of {expected}")

    def load(self, proxy, seconds):
        command = [*self.on_load, "wrk", "--latency", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"]
        command += ["-s", str(HERE / "requests.lua"), f"http://127.0.0.1:{proxy.port}", "--", str(self.requests)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
        result = json.loads(re.search(r"^RESULT (.*)$", output, re.MULTILINE).group(1))
        if result["failed"] or not result["requests"]:
            sys.exit(f"compare: requests failed; this measures nothing\n{output}")
        return result

    def measure(self, proxy):
        # Not the disk but the log is measured: what the last round wrote is given back.
        if self.access_log.exists():
            os.truncate(self.access_log, 0)
        cpu, switches, machine, ours = cpu_seconds(proxy.process), proxy.switches(), machine_seconds(), self.our_seconds()
        result = self.load(proxy, self.options.seconds)
        cpu, switches = cpu_seconds(proxy.process) - cpu, proxy.switches() - switches
        others = (machine_seconds() - machine) - (self.our_seconds() - ours)
        result["others"] = max(0, others) / result["seconds"] / os.cpu_count()
        count = result["requests"]
        result["cpu_us_per_request"] = cpu / count * 1e6
        result["context_switches_per_request"] = switches / count
        if proxy is self.tollgate:
            self.check_log(count)
        return result

    def our_seconds(self):
        """Processor time of everything that belongs to this measurement."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        running = [self.origin, self.bare.process, self.tollgate.process]
        ended = children.ru_utime + children.ru_stime + own.ru_utime + own.ru_stime
        return ended + sum(cpu_seconds(process) for process in running)

    def check_log(self, requests):
        """Every request left a line; a log that drops would make the gateway look cheap."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with open(self.access_log, "rb") as log:
                lines = sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(1 << 20), b""))
            if lines >= requests:
                return
            time.sleep(0.2)
        sys.exit(f"compare: {requests} requests left only {lines} lines in the access log")

    def rounds(self):
        for proxy in [self.bare, self.tollgate]:
            self.load(proxy, self.options.warmup)
        done = []
        for number in range(self.options.rounds * TRIES):
            pair = [self.bare, self.tollgate]
            order = pair if number % 2 == 0 else pair[::-1]
            measured = {proxy.name: self.measure(proxy) for proxy in order}
            measured["ratio"] = measured["tollgate"]["cpu_us_per_request"] / measured["bare"]["cpu_us_per_request"]
            measured["counts"] = max(measured[proxy.name]["others"] for proxy in pair) <= OTHERS_MAX
            done.append(measured)
            print(line(number + 1, measured), flush=True)
            if sum(each["counts"] for each in done) == self.options.rounds:
                break
        return done

    def memory(self):
        return {proxy.name: proxy.memory() for proxy in [self.bare, self.tollgate]}

    def syscalls(self):
        """System calls per request, counted while strace slows the proxy down: the counts are right, times are not."""
        counted = {}
        for proxy in [self.bare, self.tollgate]:
            summary = self.directory / f"strace-{proxy.name}.txt"
            command = ["strace", "-f", "-c", "-q", "-o", str(summary), "-p", str(proxy.process.pid)]
            strace = self.processes.start(command, self.directory / "strace.log")
            time.sleep(1)
            requests = self.load(proxy, 4)["requests"]
            strace.terminate()
            strace.wait(timeout=20)
            rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", summary.read_text(), re.MULTILINE)
            calls = {name: int(count) / requests for count, name in rows if name != "total"}
            counted[proxy.name] = {name: round(count, 3) for name, count in calls.items() if count >= 0.005}
        return counted


def api(number):
    """An API with 100 routes: a literal, a parameter, a literal."""
    routes = [{"path": f"/{{id}}/part-{route:03}", "methods": ["GET"]} for route in range(ROUTES_PER_API)]
    return {
        "name": f"api-{number:03}",
        "base_path": f"/api-{number:03}/items",
        "auth": ["api_key"],
        "upstream": "origin",
        "routes": routes,
    }


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def line(number, measured):
    columns = [f"round {number}"]
    for name in ["bare", "tollgate"]:
        each = measured[name]
        columns.append(
            f"{name} {each['cpu_us_per_request']:6.2f} us/request {each['requests'] / each['seconds']:7.0f}/s"
            f" p50 {each['p50_us'] / 1000:.2f} p99 {each['p99_us'] / 1000:.2f} ms"
            f" {each['context_switches_per_request']:.2f} switches"
        )
    columns.append(f"ratio {measured['ratio']:.3f}")
    if not measured["counts"]:
        columns.append("(does not count: others used the machine)")
    return "  ".join(columns)


def report(options, rounds, memory, syscalls):
    def spread(values):
        return f"{statistics.median(values):.3f} (min {min(values):.3f}, max {max(values):.3f})"

    counting = [measured for measured in rounds if measured["counts"]]
    print(f"\n{len(counting)} of {len(rounds)} rounds count")
    if not counting:
        sys.exit("compare: other programs used the machine in every round; this measures nothing")
    for name in ["bare", "tollgate"]:
        each = [measured[name]["cpu_us_per_request"] for measured in counting]
        kib = memory[name]
        print(f"{name:9} CPU us/request {spread(each)}  RSS {kib['VmRSS'] / 1024:.1f} MiB, peak {kib['VmHWM'] / 1024:.1f} MiB")
    print(f"ratio     {spread([measured['ratio'] for measured in counting])}")
    for name, calls in (syscalls or {}).items():
        print(f"{name:9} system calls per request {sum(calls.values()):.2f}: {calls}")

    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"compare-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    raw = {
        "what": "tollgate (10,000 routes, hashed key, two limits, metrics, access log) and the bare engine, in turn",
        "commit": commit(),
        "machine": {"processors": os.cpu_count(), "kernel": platform.release(), "model": processor_model()},
        "options": {"rounds": options.rounds, "seconds": options.seconds, "connections": CONNECTIONS},
        "ratio_median": statistics.median(measured["ratio"] for measured in counting),
        "rounds": rounds,
        "memory_kib": memory,
        "syscalls_per_request": syscalls,
    }
    path.write_text(json.dumps(raw, indent=2) + "\n")
    print(f"raw data  {path.relative_to(ROOT)}")


def commit():
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def processor_model():
    found = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else None


if __name__ == "__main__":
    main()
