"""Redis and the control plane killed, stopped and slowed, while requests come at a steady rate.

One run of the load for all of it: calm seconds and seconds with a fault take turns, and the p99 of each stretch is that of
the requests that were due in it. A fault counts from its beginning until a second after its end, so that what follows from it
(connecting again, catching up) is its own. It is harmless if every answer was right, and if the p99 under it is, in the
middle of its repetitions, at most a tenth above the worst of the calm stretches of the same run.

The limits are such that tickets are fetched from Redis all the time, and none of them is reached: every answer has to be 200.
"""

import json
import re
import signal
import statistics
import subprocess
import time
import urllib.error
import urllib.request

from machine import Failed, free_ports, wait_for_port
from programs import RedisServer

RATE = 2000
# Twenty requests a second of each application.
LIMITS = [{"name": "burst", "rate": "200/s"}, {"name": "hour", "rate": "1000000/h"}]
# What is slow stands still for this part of the time, in seconds, again and again.
STANDS, GOES = 0.08, 0.02
SETTLES = 1.0
# Beyond the worst of the calm stretches, which differ from each other by more than this.
NOISE = 1.1
# Where they differ by more than this from their middle, no fault could be told from the noise.
SPREAD = 3
FAULTS = [(who, what) for what in ["stopped", "slowed", "killed"] for who in ["Redis", "the control plane"]]


def faults(bench):
    repeated, calm, harmed = (2, 2, 2) if bench.options.quick else (4, 4, 4)
    redis = RedisServer(bench.processes, on=bench.on_load)
    control = ControlPlane(bench)
    control.publish(bench.journey.revision(bench.origin, LIMITS, apis=100))
    gateway = bench.gateway(*control.gateway(redis))
    wait_until_ready(gateway)
    bench.paced(f"127.0.0.1:{gateway.port}", RATE, 3)

    log = bench.processes.directory / "answers.txt"
    stretches = [(who, what) for _ in range(repeated) for who, what in FAULTS]
    seconds = calm + len(stretches) * (calm + harmed + SETTLES) + calm
    # With room for what harming and healing take themselves.
    seconds = seconds * 1.2 + 5
    command = bench.pace(f"127.0.0.1:{gateway.port}", RATE, seconds, "--log", log)
    load = bench.processes.start(command, stdout=subprocess.PIPE)
    marks = [("calm", None, time.time())]
    for who, what in stretches:
        time.sleep(calm)
        marks.append((who, what, time.time()))
        harm(redis if who == "Redis" else control, what, harmed)
        time.sleep(SETTLES)
        marks.append(("calm", None, time.time()))
    time.sleep(calm)
    marks.append(("end", None, time.time()))
    output, _ = load.communicate(timeout=seconds + 120)
    if load.returncode != 0:
        raise Failed(f"pace: {load.log.read_text(errors='replace')}")
    report = json.loads(output)
    answers = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    found = quantiles(answers, marks)
    quiet = [each["p99_us"] for each in found if each["who"] == "calm"]
    wrong = {status: took["count"] for status, took in report["latency_us"].items() if status != "200"}
    yield {
        "what": f"requests not answered with 200, of {report['requests']:,} under all faults",
        "measured": sum(wrong.values()),
        "at_most": 0,
        "unit": "requests",
        "holds": not wrong,
        "statuses": wrong,
        "late_us": report["behind_us"],
    }
    for who, what in FAULTS:
        under = [each["p99_us"] for each in found if (each["who"], each["what"]) == (who, what)]
        middle = statistics.median(under)
        most = max(quiet) * NOISE
        yield {
            "what": f"p99 with {who} {what} (calm: {statistics.median(quiet):,.0f} µs, {min(quiet):,.0f} to {max(quiet):,.0f})",
            "measured": middle,
            "at_most": most,
            "unit": "µs",
            "holds": middle <= most,
            "counts": bench.options.noisy or max(quiet) <= SPREAD * statistics.median(quiet),
            "under_fault_us": under,
            "calm_us": quiet,
        }


def quantiles(answers, marks):
    """The p99 of each stretch between two marks."""
    found = []
    for (who, what, begin), (_, _, end) in zip(marks, marks[1:], strict=False):
        took = sorted(answered - due for _, due, _, answered, _ in answers if begin <= due / 1e6 < end)
        if not took:
            raise Failed(f"no request was due while it was {who} {what or ''}")
        found.append({"who": who, "what": what, "requests": len(took), "p99_us": took[int((len(took) - 1) * 0.99)]})
    return found


def harm(server, what, seconds):
    """It is as it was before when this is over, whatever happens."""
    if what == "killed":
        server.kill()
        time.sleep(seconds)
        server.start()
        return
    process = server.process
    until = time.monotonic() + seconds
    try:
        if what == "stopped":
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
        while time.monotonic() < until:
            process.send_signal(signal.SIGSTOP)
            time.sleep(STANDS)
            process.send_signal(signal.SIGCONT)
            time.sleep(GOES)
    finally:
        process.send_signal(signal.SIGCONT)


class ControlPlane:
    """A control plane with what it has on disk; it can be killed and started again."""

    def __init__(self, bench):
        self.bench, self.token = bench, None
        (self.port,) = free_ports(1)
        self.file = bench.processes.directory / "control-plane.yaml"
        store = {"sqlite": str(bench.processes.directory / "control-plane.db")}
        self.file.write_text(json.dumps({"listener": {"address": f"127.0.0.1:{self.port}"}, "store": store}))
        self.start()
        self.token = self.first_token()

    def start(self):
        command = [self.bench.programs["tollgate"], "control-plane", "--config", self.file]
        self.process = self.bench.processes.start(self.bench.on_load(command))
        wait_for_port(self.port, self.process)

    def kill(self):
        self.bench.processes.end(self.process)

    def first_token(self):
        until = time.monotonic() + 10
        while time.monotonic() < until:
            printed = self.process.log.read_text(errors="replace")
            found = re.search(r"first admin token \(shown once\): (\S+)", printed)
            if found:
                return found.group(1)
            time.sleep(0.05)
        raise Failed("the control plane prints no token")

    def publish(self, revision):
        # Keys belong to gateways here: the control plane makes its own.
        applications = [{**each, "keys": []} for each in revision["applications"]]
        document = json.dumps({**revision, "applications": applications})
        self.ask("POST", "/v1/revisions", {"environments": ["Default"], "document": document, "name": "capacity.json"})
        self.own = {"version": 1, "applications": revision["applications"]}

    def gateway(self, redis):
        """Revision and configuration of a gateway that follows it, with that Redis; the keys are in a file of its own."""
        state = self.bench.processes.directory / "state"
        gateway = self.ask("POST", "/v1/tokens", {"scopes": ["gateway"]})["token"]
        own = self.bench.processes.directory / "own.yaml"
        own.write_text(json.dumps(self.own))
        control = {"urls": [f"http://127.0.0.1:{self.port}"], "token": gateway, "state_dir": str(state)}
        config = {
            "revision": {"file": str(own), "control_plane": control},
            "redis": {"urls": [f"redis://127.0.0.1:{redis.port}"]},
        }
        return self.own, config

    def ask(self, method, path, body):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, data=json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error


def wait_until_ready(gateway):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{gateway.status}/status/ready", timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"the gateway does not become ready\n{gateway.process.log.read_text(errors='replace')}")
