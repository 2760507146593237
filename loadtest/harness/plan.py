"""A scenario's file → what is sent when. Times are scaled here; rates and targets are what they are."""

import dataclasses
import math
import tomllib

# No phase is shorter, however small the scale, in seconds.
PHASE_LEAST = 2
# A ramp is climbed in so many parts, where its time allows.
RAMP_PARTS = 10
# Where a search for the knee ends, if nothing else ends it.
RATE_MOST = 200_000
BEYOND = 1.25

KEYS = {"title", "about", "generator", "connections", "keep_alive", "phase", "steps", "request", "targets"}
TARGETS = {
    "p50_ms", "p95_ms", "p99_ms", "p999_ms", "failed", "kept", "rate", "knee", "gateway_cpu", "gateway_memory",
    "memory_growth", "descriptor_growth",
}  # fmt: skip


class Wrong(Exception):
    """A scenario that can not be run; the text says what and where."""


@dataclasses.dataclass
class Request:
    """A kind of request, and its share of all."""

    method: str
    share: float
    answer: int
    body: int


@dataclasses.dataclass
class Slice:
    """What one run of a generator sends. Without a rate: as fast as it is answered."""

    phase: str
    seconds: int
    rate: float | None
    connections: int


@dataclasses.dataclass
class Phase:
    """A part of a scenario with a name; its slices follow each other."""

    name: str
    slices: list
    step: bool = False

    def seconds(self):
        return sum(each.seconds for each in self.slices)

    def rate(self):
        """The mean; None without one."""
        if any(each.rate is None for each in self.slices):
            return None
        return sum(each.rate * each.seconds for each in self.slices) / self.seconds()

    def connections(self):
        return max(each.connections for each in self.slices)


@dataclasses.dataclass
class Scenario:
    """What a file says, at its full length."""

    name: str
    title: str
    about: str
    generator: str
    connections: int
    keep_alive: bool
    phases: list
    steps: dict | None
    requests: list
    targets: dict

    def seconds(self):
        """At its full length; of a search, as far as its file says."""
        if self.steps:
            return self.steps["seconds"] * len(step_values(self.steps))
        return sum(phase["seconds"] for phase in self.phases)

    def plan(self, scale=1.0, rate_scale=1.0, slice_seconds=None):
        """The phases, one after the other. After each step of a search, send whether it is to go on."""
        seconds = self.seconds() * scale
        longest = slice_seconds or min(10, max(2, round(seconds / 30)))
        if self.steps:
            yield from self._search(scale, rate_scale, longest)
            return
        for phase in self.phases:
            length = max(PHASE_LEAST, round(phase["seconds"] * scale))
            first = phase.get("from", phase.get("rate"))
            last = phase.get("to", phase.get("rate"))
            part = longest if first == last else max(1, min(longest, length // RAMP_PARTS))
            slices, at = [], 0
            for took in parts(length, part):
                rate = None if first is None else rate_scale * (first + (last - first) * (at + took / 2) / length)
                slices.append(Slice(phase["name"], took, rate, phase.get("connections", self.connections)))
                at += took
            yield Phase(phase["name"], slices)

    def _search(self, scale, rate_scale, longest):
        length = max(PHASE_LEAST, round(self.steps["seconds"] * scale))
        values, closed = step_values(self.steps), "connections" in self.steps
        missed = 0
        while values:
            value = values.pop(0)
            rate, connections = (None, value) if closed else (value * rate_scale, self.connections)
            name = f"{value} connections" if closed else f"{rate:.0f}/s"
            slices = [Slice(name, took, rate, connections) for took in parts(length, longest)]
            holds = yield Phase(name, slices, step=True)
            missed = 0 if holds else missed + 1
            # A closed loop has no step that fails; its curve says where the knee is.
            if not closed and missed == 2:
                return
            if not closed and not values and value * BEYOND <= RATE_MOST:
                values = [round(value * BEYOND)]


def step_values(steps):
    if "connections" in steps:
        return list(steps["connections"])
    return list(range(steps["from"], steps["to"] + 1, steps["by"]))


def parts(length, longest):
    """Whole seconds that add up to `length`, as even as they can be."""
    count = max(1, math.ceil(length / longest))
    return [length // count + (number < length % count) for number in range(count)]


def read(path):
    """A scenario from its file."""
    try:
        written = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Wrong(f"{path}: {error}") from error

    def must(holds, text):
        if not holds:
            raise Wrong(f"{path}: {text}")

    unknown = sorted(set(written) - KEYS)
    must(not unknown, f"unknown key {', '.join(unknown)}; there are {', '.join(sorted(KEYS))}")
    unknown = sorted(set(written.get("targets", {})) - TARGETS)
    must(not unknown, f"unknown target {', '.join(unknown)}; there are {', '.join(sorted(TARGETS))}")
    must(("phase" in written) != ("steps" in written), "needs either [[phase]] or [steps]")
    generator = written.get("generator", "oha")
    must(generator in ["oha", "wrk"], f'generator "{generator}" is neither "oha" nor "wrk"')
    for phase in written.get("phase", []):
        must({"name", "seconds"} <= set(phase), "each [[phase]] needs name and seconds")
        paced = "rate" in phase or {"from", "to"} <= set(phase)
        must(paced == (generator == "oha"), f'phase "{phase["name"]}": oha needs rate, or from and to; wrk has neither')
    if "steps" in written:
        steps = written["steps"]
        paced = {"from", "to", "by"} <= set(steps)
        must("seconds" in steps, "[steps] needs seconds")
        must(paced != ("connections" in steps), "[steps] needs either from, to and by, or connections")
        must(paced == (generator == "oha"), "[steps]: oha takes from, to and by; wrk takes connections")
    requests = [
        Request(each.get("method", "GET"), each.get("share", 1), each.get("answer", 1024), each.get("body", 0))
        for each in written.get("request", [{}])
    ]
    must(all(each.share > 0 for each in requests), "a share has to be more than 0")
    return Scenario(
        name=path.stem,
        title=written.get("title", path.stem),
        about=" ".join(written.get("about", "").split()),
        generator=generator,
        connections=written.get("connections", 64),
        keep_alive=written.get("keep_alive", True),
        phases=written.get("phase", []),
        steps=written.get("steps"),
        requests=requests,
        targets=written.get("targets", {}),
    )
