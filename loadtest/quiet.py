"""Measurements that count only when nobody else used the machine."""

import os
import time

from machine import machine_seconds

# Share of the machine that other programs may use, and how often a measurement is taken until it counts.
OTHERS_MAX = 0.05
TRIES = 4


class Quiet:
    """Takes measurements again while others disturb them. `our_seconds` tells the processor time of all that belongs to
    them, `again` is how many may be taken a further time in all, and with `noisy` everything counts."""

    def __init__(self, our_seconds, again, noisy=False):
        self.our_seconds, self.again, self.noisy = our_seconds, again, noisy

    def __call__(self, measure):
        """What it measures (a dictionary), with the share of the machine that others used, and whether it counts."""
        for _ in range(TRIES):
            machine, ours, began = machine_seconds(), self.our_seconds(), time.monotonic()
            result = measure()
            took = time.monotonic() - began
            others = (machine_seconds() - machine) - (self.our_seconds() - ours)
            result["others"] = max(0, others) / took / os.cpu_count()
            result["counts"] = self.noisy or result["others"] <= OTHERS_MAX
            if result["counts"] or self.again <= 0:
                break
            self.again -= 1
        return result
