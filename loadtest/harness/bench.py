"""Runs a scenario: slices start on time whether or not others have ended, and somebody looks on."""

import collections
import math
import time

from machine import descriptors

from .judge import step_holds
from .latencies import Latencies
from .plan import Slice
from .watch import Watch

# Before anything counts, in seconds; at most at this pace.
WARM_UP = 3
WARM_UP_RATE = 1000
# A picture has about so many points.
POINTS = 600
TICK = 0.05
# How long descriptors may take to be given back after the load, in seconds.
GIVEN_BACK_WITHIN = 20
# More than before the load that may stay open: files that a process opens when it first needs them.
STAYS_OPEN = 8


class Bench:
    """One scenario against one target."""

    def __init__(self, options, scenario, target, generator, processes, gateway_on, load_on, say):
        self.options, self.scenario, self.target = options, scenario, target
        self.generator, self.say = generator, say
        # What was started to be measured, and to send.
        self.everything, self.processes = processes, processes[-1]
        self.gateway_on, self.load_on = gateway_on, load_on
        self.phases, self.points = [], {}
        self.running = []
        self.latest = None

    def run(self):
        scale, expected = self.options.scale, self.scenario.seconds() * self.options.scale
        self.width = max(1, round(expected / POINTS))
        idle = self.descriptors()
        self.warm_up()
        self.began = time.monotonic()
        self.watch = Watch(self.target, self.everything, self.gateway_on, self.load_on, self.began, expected)
        self.watch.look(force=True)
        self.say.begins(self.scenario, expected)
        plan = self.scenario.plan(scale, self.options.rate_scale, self.options.slice)
        holds, at = None, 0.0
        while True:
            try:
                phase = plan.send(holds)
            except StopIteration:
                break
            done = Done(phase, at)
            self.phases.append(done)
            for part in phase.slices:
                self.until(at)
                done.due.append((at, part.rate))
                self.running += [(run, done, at) for run in self.generator.start(part)]
                at += part.seconds
            if phase.step:
                # A step is judged before the next begins, and leaves nothing behind for it.
                self.until(at)
                self.finish()
                at = max(at, math.ceil(time.monotonic() - self.began))
            holds = step_holds(done, self.scenario.targets) if phase.step else None
            if phase.step:
                self.say.step(done, holds)
        self.until(at)
        self.finish()
        return {
            "phases": self.phases,
            "points": self.series(at),
            "samples": self.watch.samples,
            "seconds": at,
            "descriptors": self.given_back(idle) if self.options.own else None,
        }

    def warm_up(self):
        first = next(self.scenario.plan(self.options.scale, self.options.rate_scale)).slices[0]
        rate = None if first.rate is None else min(first.rate, WARM_UP_RATE)
        for run in self.generator.start(Slice("warm-up", WARM_UP, rate, first.connections)):
            while not run.ended(self.processes):
                time.sleep(TICK)
            self.generator.collect(run)

    def until(self, at):
        while time.monotonic() - self.began < at:
            self.tick()

    def finish(self):
        while self.running:
            self.tick()

    def tick(self):
        time.sleep(TICK)
        self.target.look_after()
        still = []
        for run, done, at in self.running:
            if run.ended(self.processes):
                self.take(self.generator.collect(run), done, at)
            else:
                still.append((run, done, at))
        self.running = still
        sample = self.watch.look()
        if sample:
            self.say.sample(sample, self.phases[-1] if self.phases else None, self.latest)

    def take(self, sent, done, at):
        done.take(sent)
        if self.latest is None or self.latest[0] != at:
            self.latest = (at, Latencies(), [0, 0])
        self.latest[1].merge(sent.latencies)
        self.latest[2][0] += sent.answered
        self.latest[2][1] += sent.failed()
        for second, (answered, failed, latencies) in sent.by_second.items():
            point = self.points.setdefault(int(at + second) // self.width, Point())
            point.answered += answered
            point.failed += failed
            point.latencies.merge(latencies)

    def series(self, seconds):
        """What the picture shows. What is answered after the end belongs to the last phase, but is no pace; nor is what is
        answered between two steps of a search, when nobody sends."""
        shown = []
        for number, point in sorted(self.points.items()):
            begins, ends = number * self.width, min((number + 1) * self.width, seconds)
            steps = [each for each in self.phases if each.step]
            if begins >= ends or steps and not any(each.begins <= begins and ends <= each.to for each in steps):
                continue
            shown.append(
                {
                    "at": begins,
                    "answered": point.answered / (ends - begins),
                    "failed": point.failed / (ends - begins),
                    **{f"{name}_ms": point.latencies.milliseconds(part) for name, part in QUANTILES.items()},
                }
            )
        return shown

    def descriptors(self):
        process = self.target.process()
        return 0 if process is None else descriptors(process)

    def given_back(self, before):
        """Descriptors before the load, at its height and after it; waits for idle connections to be closed."""
        until = time.monotonic() + GIVEN_BACK_WITHIN
        while (after := self.descriptors()) > before + STAYS_OPEN and time.monotonic() < until:
            time.sleep(0.2)
        most = max((sample["descriptors"] or 0 for sample in self.watch.samples), default=0)
        return {"before": before, "most": most, "after": after, "stay": STAYS_OPEN}


QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}


class Point:
    """What a moment of the picture shows."""

    def __init__(self):
        self.answered, self.failed, self.latencies = 0, 0, Latencies()


class Done:
    """A phase, and what became of it. Times are seconds since the scenario began."""

    def __init__(self, phase, at):
        self.name, self.step, self.begins, self.to = phase.name, phase.step, at, at + phase.seconds()
        # When another pace began.
        self.due = []
        self.seconds, self.rate, self.connections = phase.seconds(), phase.rate(), phase.connections()
        self.offered, self.answered, self.longer = 0, 0, 0.0
        self.failures, self.latencies = collections.Counter(), Latencies()

    def take(self, sent):
        self.offered += sent.offered
        self.longer += sent.longer
        self.answered += sent.answered
        self.failures.update(sent.failures)
        self.latencies.merge(sent.latencies)

    def figures(self):
        """By the names of the targets."""
        failed = sum(self.failures.values())
        due = self.offered if self.rate is None else max(self.offered, int(self.rate * self.seconds * 0.999))
        return {
            **{f"{name}_ms": self.latencies.milliseconds(part) for name, part in QUANTILES.items()},
            "failed": failed / max(1, failed + self.answered),
            "kept": self.answered / max(1, due),
            "rate": self.answered / (self.seconds + self.longer),
        }
