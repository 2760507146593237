"""What sends: oha at a pace of its own (an open loop), wrk as fast as answers come (a closed loop). One run for each slice,
so that memory stays bounded however long the scenario is."""

import collections
import json
import math
import pathlib
import random
import re
import sqlite3
import time

from machine import Failed

from .latencies import Latencies

# After the time of a slice, requests under way may take this long, in seconds; then they have failed.
PATIENCE = 10
LATE = "no answer within the time"


class Sent:
    """What became of a slice. `by_second`: seconds since the slice began → answered, failed, times of those answered."""

    def __init__(self):
        self.offered, self.answered = 0, 0
        # How much longer than the slice it went on, in seconds.
        self.longer = 0.0
        self.failures, self.latencies = collections.Counter(), Latencies()
        self.by_second = {}

    def failed(self):
        return sum(self.failures.values())

    def second(self, number):
        return self.by_second.setdefault(number, [0, 0, Latencies()])

    def fail(self, reason, count, second):
        if count > 0:
            self.failures[reason] += count
            self.second(second)[1] += count


class Oha:
    """Requests at a pace, whether or not others have been answered. A time begins when the request was due, so one that had
    to wait for a connection because others were slow counts its wait (`--latency-correction`)."""

    def __init__(self, processes, binary, target, requests, keep_alive, on):
        self.processes, self.binary, self.keep_alive, self.on = processes, binary, keep_alive, on
        self.directory, self.number = processes.directory, 0
        # oha has one method for all, but any number of URLs and bodies, from which it takes one at random.
        self.groups = []
        for method in sorted({request.method for request in requests}):
            kinds = [request for request in requests if request.method == method]
            self.groups.append(Group(self.directory, method, kinds, target))
        self.whole = sum(request.share for request in requests)
        self.key = target.keys[0] if target.keys else None

    def start(self, part):
        return [self._start(group, part) for group in self.groups]

    def _start(self, group, part):
        self.number += 1
        stem = self.directory / f"sent-{self.number}"
        share = group.share / self.whole
        rate = part.rate * share
        command = [self.binary, "--no-tui", "-z", f"{part.seconds}s", "-q", f"{rate:.3f}", "--latency-correction", "-w"]
        command += ["-c", max(1, round(part.connections * share)), "-t", f"{PATIENCE}s", "--worker-threads", 1]
        command += ["--disable-compression", "-m", group.method, "--urls-from-file", group.urls]
        command += ["--output-format", "json", "-o", stem.with_suffix(".json"), "--db-url", stem.with_suffix(".db")]
        if group.bodies:
            command += ["-Z", group.bodies, "-T", "application/octet-stream"]
        if self.key:
            command += ["-H", f"X-API-Key: {self.key}"]
        if not self.keep_alive:
            command += ["--disable-keepalive"]
        run = Run(self.processes.start(self.on(command)), part, stem)
        run.offered = math.floor(rate * part.seconds + 1e-6)
        return run

    def collect(self, run):
        sent = Sent()
        sent.offered = run.offered
        try:
            self._read(run, sent)
        finally:
            for suffix in [".json", ".db", ".db-journal"]:
                run.stem.with_suffix(suffix).unlink(missing_ok=True)
            run.process.log.unlink(missing_ok=True)
        return sent

    def _read(self, run, sent):
        last = run.part.seconds - 1
        try:
            summary = json.loads(run.stem.with_suffix(".json").read_text())
        except (OSError, ValueError):
            # Killed, because it did not end: nothing is known of its requests, so nothing good is assumed.
            sent.fail(LATE, run.offered, last)
            return
        database = sqlite3.connect(run.stem.with_suffix(".db"))
        try:
            rows = database.execute("SELECT end, duration, status FROM oha").fetchall()
        except sqlite3.Error:
            rows = []
        finally:
            database.close()
        for end, duration, status in rows:
            second = sent.second(int(end))
            if 200 <= status < 300:
                micros = duration * 1e6
                sent.answered += 1
                sent.latencies.add(micros)
                second[0] += 1
                second[2].add(micros)
            else:
                sent.failures[f"status {status}"] += 1
                second[1] += 1
        for reason, count in summary.get("errorDistribution", {}).items():
            sent.fail(reason, count, last)
        # The first is due at once, so there may be one more; nothing may go missing.
        sent.offered = max(sent.offered, sent.answered + sent.failed())


class Group:
    """The requests with one method: files with their URLs and bodies, each as often as its share says."""

    def __init__(self, directory, method, kinds, target):
        self.method, self.share = method, sum(kind.share for kind in kinds)
        dice = random.Random(method)
        urls, bodies = [], []
        least = min(kind.share for kind in kinds)
        for kind in kinds:
            # Of the rarest, 20 different ones, so that neither a route nor a resource is always the same.
            urls += [target.url(kind, dice) for _ in range(max(1, round(20 * kind.share / least)))]
            bodies += ["x" * kind.body] * max(1, round(kind.share / least))
        self.urls = directory / f"urls-{method}.txt"
        self.urls.write_text("\n".join(urls) + "\n")
        self.bodies = None
        if any(bodies):
            self.bodies = directory / f"bodies-{method}.txt"
            self.bodies.write_text("\n".join(bodies) + "\n")


class Wrk:
    """Each connection sends the next request as soon as the last is answered."""

    def __init__(self, processes, binary, target, requests, keep_alive, on):
        self.processes, self.binary, self.on, self.target, self.number = processes, binary, on, target, 0
        self.script = pathlib.Path(__file__).resolve().parent / "requests.lua"
        self.keep_alive = keep_alive
        dice = random.Random(1)
        self.requests = processes.directory / "requests.txt"
        least = min(request.share for request in requests)
        lines = []
        for request in requests:
            for number in range(20):
                key = target.keys[number % len(target.keys)] if target.keys else "-"
                weight = max(1, round(10 * request.share / least))
                path = target.path(request, dice)
                lines.append(f"{weight} {key} {request.method} {path} {request.body}\n")
        self.requests.write_text("".join(lines))

    def start(self, part):
        self.number += 1
        command = [self.binary, "-t1", f"-c{part.connections}", f"-d{part.seconds}s", "--timeout", f"{PATIENCE}s"]
        command += ["-s", self.script]
        if not self.keep_alive:
            command += ["-H", "Connection: close"]
        command += [self.target.origin, "--", self.requests, self.number]
        return [Run(self.processes.start(self.on(command)), part, None)]

    def collect(self, run):
        sent = Sent()
        found = re.search(r"^RESULT (.*)$", run.process.log.read_text(errors="replace"), re.MULTILINE)
        run.process.log.unlink(missing_ok=True)
        if found is None:
            sent.offered = run.part.connections
            sent.fail(LATE, sent.offered, 0)
            return sent
        result = json.loads(found.group(1))
        sent.longer = max(0.0, result["seconds"] - run.part.seconds)
        # wrk counts an answer with a bad status as a request, and what got no answer as none.
        sent.answered = result["requests"] - result["status"]
        for micros, count in result["times"]:
            sent.latencies.add(micros, count)
        for second in range(run.part.seconds):
            even = sent.answered // run.part.seconds + (second < sent.answered % run.part.seconds)
            sent.second(second)[0] += even
            sent.second(second)[2].merge(sent.latencies)
        sent.fail("status that is no success", result["status"], run.part.seconds - 1)
        for reason in ["connect", "read", "write", "timeout"]:
            sent.fail(f"{reason} error", result[reason], run.part.seconds - 1)
        sent.offered = sent.answered + sent.failed()
        return sent


class Run:
    """A generator at work on a slice."""

    def __init__(self, process, part, stem):
        self.process, self.part, self.stem = process, part, stem
        self.began, self.offered = time.monotonic(), 0

    def ended(self, processes):
        """Whether it has ended; one that takes too long is ended here."""
        if self.process.poll() is None:
            if time.monotonic() - self.began < self.part.seconds + PATIENCE + 2:
                return False
        status = self.process.poll()
        processes.end(self.process)
        if status:
            raise Failed(f"{self.process.args}: ended with {status}\n{self.process.log.read_text(errors='replace')}")
        return True
