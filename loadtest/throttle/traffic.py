"""What is offered, and what came of it."""

import json
import subprocess

from processes import Failed

# Longer than any run here takes.
WITHIN = 300
# How far the clock of a gateway may be off at most, in microseconds: half a round trip to Redis, on a busy machine.
CLOCKS_DIFFER = 3000


class Stage:
    """Requests with one pace. `weights` has a number for each gateway; without a rate all come at once."""

    def __init__(self, weights, count, rate=None, connections=16):
        self.weights, self.count, self.rate, self.connections = weights, count, rate, connections

    def seconds(self):
        """How long it takes at least, about. Without a rate: what a small machine gets through."""
        return self.count / (self.rate or 8000)


class Traffic:
    """Stages under way, one after the other; the first begins at once, or at a unix time."""

    def __init__(self, processes, binaries, fleet, path, stages, at=None, timeout=10):
        self.processes, self.binaries, self.fleet, self.path = processes, binaries, fleet, path
        self.stages, self.timeout = list(stages), timeout
        self.answers, self.reports = [], []
        self.running = self.launch(at)

    def launch(self, at=None):
        stage = self.stages.pop(0)
        log = self.processes.directory / f"answers-{self.processes.number}.txt"
        command = [self.binaries["pace"], "--path", self.path, "--count", stage.count, "--connections", stage.connections]
        command += ["--log", log, "--timeout", self.timeout, "--seed", len(self.reports) + 1]
        for gateway, weight in zip(self.fleet.gateways, stage.weights, strict=True):
            if weight:
                command += ["--target", f"127.0.0.1:{gateway.port}={weight}"]
        command += ["--rate", stage.rate] if stage.rate else []
        command += ["--at", at] if at else []
        process = self.processes.start(command, stdout=subprocess.PIPE)
        return process, log

    def finish(self):
        """Waits for the last answer of the last stage."""
        while True:
            process, log = self.running
            output, _ = process.communicate(timeout=WITHIN)
            if process.returncode != 0:
                raise Failed(f"pace: {process.log.read_text(errors='replace')}")
            self.processes.end(process)
            self.reports.append(json.loads(output))
            with open(log, encoding="ascii") as lines:
                self.answers += [tuple(map(int, line.split())) for line in lines]
            log.unlink()
            if not self.stages:
                return self
            self.running = self.launch()

    def seconds(self):
        return sum(report["seconds"] for report in self.reports)

    def requests(self):
        return len(self.answers)

    def count(self, status):
        return sum(1 for answer in self.answers if answer[4] == status)

    def statuses(self):
        statuses = sorted({answer[4] for answer in self.answers})
        return {str(status): self.count(status) for status in statuses}

    def latency(self, status=None):
        """What answers took, in milliseconds, from when the request was due."""
        took = sorted((a[3] - a[1]) / 1000 for a in self.answers if status is None or a[4] == status)
        if not took:
            return None
        return {name: took[int((len(took) - 1) * part)] for name, part in QUANTILES.items()}

    def windows(self, period, limit):
        """By calendar window: what was offered, and what was admitted in it for certain; who was sent in one and answered
        in the next may have been counted in either. So may who came so close to its end that a gateway, whose clock is
        Redis' as far as it can know it, may have seen another window."""
        windows = {}
        length = period * 1_000_000
        for _, dispatched, written, answered, status in self.answers:
            window = windows.setdefault(dispatched // length, {"offered": 0, "admitted": 0, "either": 0})
            window["offered"] += 1
            if status == 200:
                sure = (written - CLOCKS_DIFFER) // length == (answered + CLOCKS_DIFFER) // length
                window["admitted" if sure else "either"] += 1
        for window in windows.values():
            window["of_limit"] = window["admitted"] / limit
            window["of_possible"] = (window["admitted"] + window["either"]) / min(limit, window["offered"])
        return [{"window": index * period, **window} for index, window in sorted(windows.items())]

    def most_beyond(self, rate):
        """The greatest excess of any interval of time: what was admitted in it for certain (sent and answered), less what
        the rate gives in it."""
        admitted = [(a[2] / 1e6, a[3] / 1e6) for a in self.answers if a[4] == 200]
        return max_excess(admitted, rate)


QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}


def max_excess(spans, rate):
    """Of spans (from, to): the maximum, over all intervals, of the number of spans inside less rate · length. Intervals
    that begin where a span begins and end where one ends are all that matter. From the last beginning to the first, spans
    are added at their ends; the best end is the greatest prefix sum, kept in a tree."""
    if not spans:
        return 0.0
    ends = sorted(range(len(spans)), key=lambda i: spans[i][1])
    place = {span: position for position, span in enumerate(ends)}
    size = 1 << (len(spans) - 1).bit_length()
    nothing = float("-inf")
    sums, best = [0.0] * (2 * size), [nothing] * (2 * size)
    last = first = spans[ends[0]][1]
    for position, span in enumerate(ends):
        sums[size + position] = -rate * (spans[span][1] - last)
        last = spans[span][1]
    for node in range(size - 1, 0, -1):
        sums[node] = sums[2 * node] + sums[2 * node + 1]
    most = 0.0
    for span in sorted(range(len(spans)), key=lambda i: -spans[i][0]):
        node = size + place[span]
        sums[node] += 1
        best[node] = sums[node]
        while node > 1:
            node //= 2
            sums[node] = sums[2 * node] + sums[2 * node + 1]
            best[node] = max(best[2 * node], sums[2 * node] + best[2 * node + 1])
        # Prefix sums count from the first end.
        most = max(most, best[1] - rate * (first - spans[span][0]))
    return most
