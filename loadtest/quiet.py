"""Measurements that count only when nobody else used the machine."""

import os
import time

from machine import machine_seconds

# Share of the machine that other programs may use, and how often a measurement is taken until it counts.
OTHERS_MAX = 0.05
TRIES = 4


def quietly(measure, our_seconds, noisy=False):
    """What it measures (a dictionary), with the share of the machine that others used meanwhile, and whether it counts.
    `our_seconds` tells the processor time of all that belongs to it; with `noisy`, everything counts."""
    for _ in range(TRIES):
        machine, ours, began = machine_seconds(), our_seconds(), time.monotonic()
        result = measure()
        took = time.monotonic() - began
        others = (machine_seconds() - machine) - (our_seconds() - ours)
        result["others"] = max(0, others) / took / os.cpu_count()
        result["counts"] = noisy or result["others"] <= OTHERS_MAX
        if result["counts"]:
            break
    return result
