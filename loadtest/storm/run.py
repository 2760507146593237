#!/usr/bin/env python3
"""What a control plane does when a thousand gateways want something of it at the same time.

    python3 loadtest/storm/run.py [--quick] [--gateways 1000] [--apis 1000] [--postgres URL]

One control plane (SQLite), a thousand simulated gateways in one process (real HTTP clients, `examples/gatewaysim.rs`) and
a few real ones under load, on this machine:

* cold: all of them start within a second and have nothing;
* change: one route of a thousand changes, several times; how long until every gateway has it, and what it costs in bytes;
* restart: the control plane is killed and started again, then one route changes;
* revocation: keys are made and revoked; how long until the real gateways refuse them;
* serving: `wrk` runs against a real gateway all the time; anything but 200 is counted.

Takes about three minutes; --quick takes one. Writes `loadtest/results/storm-*.json` and prints the same as a table. Exit
code 1 if a bound of the issue was broken. Uses loopback only; needs wrk and cargo; ends what it started.
"""

import argparse
import json
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results"

# What other measurements use too is one folder up.
sys.path.insert(0, str(HERE.parent))

from machine import Failed, Processes, cpu_seconds, free_ports, memory, wait_for_port  # noqa: E402

CONVERGE_WITHIN = 300
SNAPSHOT_REQUESTS = 2.5
CHANGE_P99_MS = 2000
REVOKED_P99_MS = 2000


def main():
    options = arguments()
    for tool in ["wrk", "cargo"]:
        if shutil.which(tool) is None:
            sys.exit(f"storm: {tool} is missing; on Debian run: sh scripts/install-tools.sh loadtest")
    if not options.built:
        build = ["cargo", "build", "--release", "--locked", "--bin", "tollgate"]
        subprocess.run([*build, "--example", "gatewaysim", "--example", "fixed_origin"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="tollgate-storm-") as directory:
        directory = pathlib.Path(directory)
        try:
            with Processes(directory) as processes:
                results = Storm(processes, directory, options).run()
        except Failed as failed:
            sys.exit(f"storm: {failed}")
    results["commit"] = git("rev-parse", "--short", "HEAD")
    results["at"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"storm-{results['at']}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(f"\nwritten to {path.relative_to(ROOT)}")
    sys.exit(1 if results["broken"] else 0)


class Storm:
    """One control plane, its gateways, and what is asked of them."""

    def __init__(self, processes, directory, options):
        self.processes, self.directory, self.options = processes, directory, options
        self.release = ROOT / "target" / "release"
        self.real = 1 if options.quick else 4
        self.broken = []

    def run(self):
        self.start_control_plane(first=True)
        origin, self.gateway_ports = free_ports(1)[0], free_ports(2 * self.real)
        self.origin = self.processes.start([self.release / "examples" / "fixed_origin", f"127.0.0.1:{origin}"])
        wait_for_port(origin, self.origin)
        self.origin_port = origin
        self.publish(0)
        self.gateway_token = self.ask("POST", "/v1/tokens", {"scopes": ["gateway"]})["token"]
        self.start_gateways()
        wrk = self.start_wrk()
        cpu = cpu_seconds(self.control_plane)
        self.start_simulation()
        cold = self.next_line()
        cold["control_plane_cpu_s"] = round(cpu_seconds(self.control_plane) - cpu, 2)
        changes = [self.change(number) for number in range(1, 3 if self.options.quick else 8)]
        resident = {"rss_mib": mib(memory(self.control_plane)), "most_mib": mib(memory(self.control_plane, "VmHWM"))}
        restart = self.restart()
        revocation = self.revocations(20 if self.options.quick else 100)
        served = self.end_wrk(wrk)
        results = {
            "gateways": self.options.gateways,
            "apis": self.options.apis,
            "snapshot_bytes": self.snapshot_bytes(),
            "cold": cold,
            "changes": changes,
            "restart": restart,
            "control_plane": resident,
            "revocation": revocation,
            "served": served,
        }
        self.judge(results)
        results["broken"] = self.broken
        return results

    def judge(self, results):
        def must(holds, text):
            if not holds:
                self.broken.append(text)

        cold = results["cold"]
        must(cold["snapshot_requests"] <= SNAPSHOT_REQUESTS, "cold: more than 2.5 snapshot requests a gateway")
        for change in results["changes"]:
            must(change["p99_ms"] <= CHANGE_P99_MS, f"change {change['seq']}: p99 {change['p99_ms']} ms")
            must(change["bytes"] * 10 < results["snapshot_bytes"], "a change costs as much as the table")
        must(results["revocation"]["p99_ms"] <= REVOKED_P99_MS, "revocation: p99 above 2 s")
        must(results["served"]["not_200"] == 0, "a request to a real gateway was not served")

    def start_control_plane(self, first=False):
        if first:
            (self.port,) = free_ports(1)
            config = {
                "listener": {"address": f"127.0.0.1:{self.port}"},
                "store": {"postgres": self.options.postgres}
                if self.options.postgres
                else {"sqlite": str(self.directory / "control-plane.db")},
            }
            (self.directory / "control-plane.yaml").write_text(json.dumps(config))
        command = [self.release / "tollgate", "control-plane", "--config", self.directory / "control-plane.yaml"]
        self.control_plane = self.processes.start(command)
        wait_for_port(self.port, self.control_plane)
        if first:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                printed = self.control_plane.log.read_text(errors="replace")
                found = re.search(r"first admin token \(shown once\): (\S+)", printed)
                if found:
                    self.token = found.group(1)
                    return
                time.sleep(0.05)
            raise Failed("the control plane prints no token")

    def start_gateways(self):
        self.gateways = []
        for number in range(self.real):
            port, status = self.gateway_ports[2 * number], self.gateway_ports[2 * number + 1]
            config = {
                "gateway": {"id": f"real-{number}"},
                "server": {"threads": 1},
                "listeners": [{"address": f"127.0.0.1:{port}"}],
                "status": {"address": f"127.0.0.1:{status}"},
                "revision": {
                    "control_plane": {
                        "urls": [f"http://127.0.0.1:{self.port}"],
                        "token": self.gateway_token,
                        "state_dir": str(self.directory / f"state-{number}"),
                    }
                },
                "telemetry": {"access_log": {"path": "off"}},
            }
            file = self.directory / f"gateway-{number}.yaml"
            file.write_text(json.dumps(config))
            process = self.processes.start([self.release / "tollgate", "run", "--config", file])
            wait_for_port(port, process)
            self.gateways.append((process, port, status))
        for process, _, status in self.gateways:
            until = time.monotonic() + 60
            while self.status_of(f"http://127.0.0.1:{status}/status/ready") != 200:
                if time.monotonic() > until:
                    raise Failed(f"a gateway does not become ready\n{process.log.read_text(errors='replace')}")
                time.sleep(0.05)

    def start_simulation(self):
        command = [
            self.release / "examples" / "gatewaysim",
            "--server",
            f"http://127.0.0.1:{self.port}",
            "--token",
            self.gateway_token,
            "--gateways",
            self.options.gateways,
            "--start-within-ms",
            1000,
            "--seconds",
            900,
        ]
        self.lines = queue.Queue()
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.processes.running.append(process)

        def read():
            for line in process.stdout:
                self.lines.put(json.loads(line))

        threading.Thread(target=read, daemon=True).start()

    def next_line(self):
        try:
            return self.lines.get(timeout=CONVERGE_WITHIN)
        except queue.Empty:
            raise Failed("the simulated gateways do not converge") from None

    def change(self, number):
        """One route of all of them changes."""
        time.sleep(1)
        self.publish(number)
        return self.next_line()

    def restart(self):
        """The control plane is killed and started again; every poll breaks."""
        self.processes.end(self.control_plane)
        self.start_control_plane()
        self.publish(1000)
        return self.next_line()

    def revocations(self, count):
        """From the answer to the revocation until every real gateway refuses the key, in milliseconds."""
        took = []
        for _ in range(count):
            made = self.ask("POST", "/v1/applications/storm/keys", {"type": "production"})
            self.until_all(made["key"], 200)
            self.ask("DELETE", f"/v1/keys/{made['id']}")
            began = time.monotonic()
            self.until_all(made["key"], 401)
            took.append((time.monotonic() - began) * 1000)
        took.sort()
        return {
            "count": count,
            "gateways": self.real,
            "p50_ms": round(took[len(took) // 2]),
            "p99_ms": round(took[int((len(took) - 1) * 0.99)]),
            "last_ms": round(took[-1]),
        }

    def until_all(self, key, status):
        left = [port for _, port, _ in self.gateways]
        until = time.monotonic() + 30
        while left:
            if time.monotonic() > until:
                raise Failed(f"a key is not answered with {status}")
            left = [port for port in left if self.status_of(f"http://127.0.0.1:{port}/keyed", key) != status]
            if left:
                time.sleep(0.005)

    def start_wrk(self):
        _, port, _ = self.gateways[0]
        command = ["wrk", "-t1", "-c4", "-d900s", "--latency", f"http://127.0.0.1:{port}/api-1/route"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.processes.running.append(process)
        return process

    def end_wrk(self, wrk):
        wrk.send_signal(2)
        printed, _ = wrk.communicate(timeout=30)
        self.processes.running.remove(wrk)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
        return {
            "requests": int(re.search(r"(\d+) requests in", printed).group(1)),
            "not_200": int(bad.group(1) if bad else 0) + sum(map(int, errors.groups() if errors else [])),
            "p99": re.search(r"99%\s+(\S+)", printed).group(1),
        }

    def publish(self, number):
        """A table of so many APIs, of which one route says how often it was published."""
        # The same every time, and nothing that compresses well: real tables are not made of one line.
        words = random.Random(1)
        word = lambda: f"{words.getrandbits(40):010x}"
        apis = [
            {
                "name": f"api-{index}",
                "base_path": f"/api-{index}",
                "auth": "none",
                "upstream": "origin",
                "routes": [
                    {"path": "/route"},
                    *({"path": f"/{word()}/{{id}}/{word()}", "methods": ["GET", "PUT"]} for _ in range(8)),
                ],
            }
            for index in range(self.options.apis)
        ]
        apis[0]["routes"][0]["path"] = f"/changed-{number}"
        apis.append({"name": "keyed", "base_path": "/keyed", "auth": ["api_key"], "upstream": "origin"})
        document = {
            "version": 1,
            "upstreams": [{"name": "origin", "endpoints": [{"address": f"127.0.0.1:{self.origin_port}"}]}],
            "plans": [{"name": "free", "limits": []}],
            "apis": apis,
            "applications": [{"name": "storm", "subscriptions": [{"api": "keyed", "plan": "free"}]}],
        }
        self.ask("POST", "/v1/revisions", {"environments": ["Default"], "document": json.dumps(document), "name": "storm.json"})

    def snapshot_bytes(self):
        signed = self.ask("GET", "/v1/environments/Default/revision?after=0&wait=0")
        return json.loads(signed["signed"])["snapshot"]["size"]

    def ask(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error

    def status_of(self, url, key=None):
        request = urllib.request.Request(url)
        if key:
            request.add_header("X-API-Key", key)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


def table(results):
    rows = [
        ("", "p50", "p99", "last", "snapshot requests", "bytes a gateway"),
        row(f"cold start of {results['gateways']} gateways, {results['apis']} APIs", results["cold"]),
        *(row(f"one route changes (revision {change['seq']})", change) for change in results["changes"]),
        row("control plane killed, started, one route changes", results["restart"]),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|---|---|---|---|---|")
    revocation, served, plane = results["revocation"], results["served"], results["control_plane"]
    lines += [
        "",
        f"snapshot {results['snapshot_bytes']} bytes; control plane {plane['rss_mib']} MiB, at most {plane['most_mib']} MiB",
        f"revoked key refused by {revocation['gateways']} gateways: p50 {revocation['p50_ms']} ms, p99 {revocation['p99_ms']} ms",
        f"meanwhile {served['requests']} requests to one of them, {served['not_200']} not answered with 200, p99 {served['p99']}",
    ]
    return "\n".join(lines + [f"broken: {text}" for text in results["broken"]])


def row(name, line):
    seconds = [f"{line[key] / 1000:.2f} s" for key in ("p50_ms", "p99_ms", "last_ms")]
    return (name, *seconds, f"{line['snapshot_requests']:.2f}", f"{line['bytes']:.0f}")


def mib(count):
    return round(count / 2**20, 1)


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer of everything but gateways")
    parser.add_argument("--built", action="store_true", help="do not build; what is in target/release is measured")
    parser.add_argument("--gateways", type=int, default=1000)
    parser.add_argument("--apis", type=int, default=1000)
    parser.add_argument("--postgres", help="a database to use instead of SQLite")
    return parser.parse_args()


if __name__ == "__main__":
    main()
