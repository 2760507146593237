"""The traffic patterns, and the limits that they meet.

Names and shapes are those of a table that was simulated before there was a gateway: A hot, B flash, C skewed, D tiny, F
per second, G far store, H touch all and hammer one, I hotter, J a greater flash. What had to be scaled to eight gateways on
a small machine is said with each of them.
"""

import dataclasses

from traffic import Stage

GATEWAYS = 8
UNITS = {"s": 1, "m": 60}

# How a limit is kept, and by which fleet.
SHARED, FAR, EVERY_REQUEST, ALONE = "shared", "far", "every request", "alone"


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to keep a limit that is compared with others."""

    name: str
    title: str
    fleet: str
    overrun: float = 0.0
    bucket: bool = False
    divided: bool = False


LEASE = Way("lease-5", "lease 5 %", SHARED, overrun=0.05)
STRICT = Way("lease-0", "lease 0 %", SHARED)
BUCKET = Way("bucket-5", "token bucket 5 %", SHARED, overrun=0.05, bucket=True)
ASKING = Way("asking", "a round trip per request", EVERY_REQUEST)
DIVIDED = Way("divided", "static L/N", ALONE, divided=True)
FAR_LEASE = Way("far-lease-5", "lease 5 %", FAR, overrun=0.05)
FAR_STRICT = Way("far-lease-0", "lease 0 %", FAR)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A traffic pattern and its limit."""

    name: str
    title: str
    limit: int
    unit: str
    stages: tuple
    ways: tuple
    scaled: str
    # Whether the end of a window comes in the middle of it.
    crosses: bool = False

    def seconds(self):
        return sum(stage.seconds() for stage in self.stages)

    def period(self):
        return UNITS[self.unit]

    def limits(self, way):
        """The limit as a revision has it."""
        limit = self.limit
        if way.divided:
            # Nobody can be let in to a half.
            limit = max(1, limit // GATEWAYS)
        one = {"name": "limit", "rate": f"{limit}/{self.unit}", "window": "fixed"}
        if way.bucket:
            one |= {"window": "token_bucket", "burst": limit}
        if not way.divided:
            one["max_overrun"] = f"{100 * way.overrun:g}%"
        return [one]

    def credit(self, way):
        """What all gateways together may let through beyond the limit."""
        return GATEWAYS * int(way.overrun * self.limit / GATEWAYS + 1e-9)


EVEN = (1,) * GATEWAYS
ALL = (LEASE, STRICT, BUCKET, ASKING, DIVIDED)


def skewed(share):
    """One gateway gets this share."""
    return (share * (GATEWAYS - 1) / (1 - share),) + (1,) * (GATEWAYS - 1)


def only(gateway):
    return tuple(1 if number == gateway else 0 for number in range(GATEWAYS))


def everything():
    """All scenarios, in the order in which they are reported."""
    hot = {"limit": 15_000, "unit": "m"}
    one_window = (Stage(EVEN, 30_000, rate=2000),)
    return [
        Scenario(
            "A",
            "hot, even, 2x offered, over the end of a window",
            **hot,
            stages=(Stage(EVEN, 60_000, rate=2000),),
            ways=(LEASE, STRICT),
            crosses=True,
            scaled="2,000/s as in the simulation, but 15 s of each of two windows with L = 15,000 instead of a whole one with"
            " 60,000; N = 8 instead of 10",
        ),
        Scenario(
            "A",
            "the same in one window",
            **hot,
            stages=one_window,
            ways=(ASKING, DIVIDED),
            scaled="as A",
        ),
        Scenario(
            "A/s",
            "the same, as a rate",
            limit=1000,
            unit="s",
            stages=(Stage(EVEN, 20_000, rate=2000),),
            ways=(BUCKET,),
            scaled="1,000/s with a burst of 1,000",
        ),
        Scenario(
            "B",
            "flash: 5,000 at once over all gateways",
            limit=1000,
            unit="m",
            stages=(Stage(EVEN, 5000, connections=625),),
            ways=ALL,
            scaled="a connection for each request, all open before; one flash, N = 8 instead of 50",
        ),
        Scenario(
            "C",
            "skewed: 90 % on one gateway",
            limit=1000,
            unit="m",
            stages=(Stage(skewed(0.9), 2000, rate=250),),
            ways=ALL,
            scaled="250/s for 8 s instead of 50/s for 60 s; N = 8 instead of 50",
        ),
        Scenario(
            "D",
            "tiny: 10/min, sprayed",
            limit=10,
            unit="m",
            stages=(Stage(EVEN, 60, rate=10),),
            ways=ALL,
            scaled="10/s for 6 s instead of 1/s for 60 s; N = 8 instead of 50",
        ),
        Scenario(
            "F",
            "per second: 500/s, 2x offered",
            limit=500,
            unit="s",
            stages=(Stage(EVEN, 8000, rate=1000),),
            ways=ALL,
            scaled="8 s instead of 30 s; N = 8 instead of 20",
        ),
        Scenario(
            "G",
            "A with Redis 20 ms away, in one window",
            **hot,
            stages=one_window,
            ways=(FAR_LEASE, FAR_STRICT),
            scaled="as A, in one window",
        ),
        Scenario(
            "H",
            "touch all, then hammer one",
            limit=1000,
            unit="m",
            stages=(Stage(EVEN, 100, rate=100), Stage(only(0), 1600, rate=200)),
            ways=ALL,
            scaled="hammered with 200/s for 8 s instead of 100/s for 59 s; N = 8 instead of 50",
        ),
        Scenario(
            "I",
            "hotter: per second, 2x offered",
            limit=2000,
            unit="s",
            stages=(Stage(EVEN, 24_000, rate=4000),),
            ways=(LEASE, STRICT, BUCKET, ASKING),
            scaled="2,000/s with 4,000/s offered instead of 10,000/s with 15,000/s; N = 8 instead of 100",
        ),
        Scenario(
            "J",
            "a flash of 30,000",
            limit=10_000,
            unit="m",
            stages=(Stage(EVEN, 30_000, connections=64),),
            ways=ALL,
            scaled="as fast as 512 connections go instead of within 200 ms; N = 8 instead of 200",
        ),
    ]


# What is left with --quick: one of each kind.
QUICK = {
    ("B", "lease-5"),
    ("B", "lease-0"),
    ("B", "asking"),
    ("C", "lease-5"),
    ("D", "lease-0"),
    ("F", "lease-5"),
    ("F", "bucket-5"),
    ("J", "lease-5"),
}
