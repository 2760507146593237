"""What a gateway has in memory when much more is asked for than it may keep."""

import pathlib
import random
import time

from machine import Failed, memory as resident

BUDGETS_MIB = [64, 256]
# The working set is so many times what may be kept.
TIMES = 10
AT_MOST = 1.10
MIB = 1024 * 1024
# As many requests as there are answers make one round.
ROUNDS = 2
SLICE = 5
# However slow the machine is.
LONGEST = 600


def memory(bench):
    budgets = BUDGETS_MIB[:1] if bench.options.quick else BUDGETS_MIB
    for budget in budgets:
        yield measure(bench, budget)


def measure(bench, budget_mib):
    budget = budget_mib * MIB
    bodies = working_set(budget * TIMES)
    paths = {way: [f"/open/{way}/items/{n}/bytes/{size}" for n, size in enumerate(bodies)] for way in ["kept", "fetched"]}
    gateway = bench.gateway(f"{budget_mib}MiB")
    started = gateway.memory()
    # The same load and connections without a cache.
    bench.saturated(gateway, bench.list(paths["fetched"]), SLICE, "at-random")
    time.sleep(1)
    before, before_at_most = gateway.memory(), resident(gateway.process, "VmHWM")
    forget_most(gateway)
    kept = bench.list(paths["kept"])
    rounds = 1 if bench.options.quick else ROUNDS
    asked, hits, began, over_time = 0, 0, time.monotonic(), []
    while asked < rounds * len(bodies):
        run = bench.saturated(gateway, kept, SLICE, "at-random")
        asked += run["requests"]
        hits += run["hit_share"] * run["requests"]
        over_time.append({"requests": asked, "resident": gateway.memory(), "highest": resident(gateway.process, "VmHWM")})
        if time.monotonic() - began > LONGEST:
            raise Failed(f"{asked} of {rounds * len(bodies)} requests in {LONGEST} s; this machine is too slow for it")
    highest = resident(gateway.process, "VmHWM")
    samples = gateway.metrics()
    time.sleep(1)
    after = gateway.memory()
    gateway.end()
    grown, whole = (highest - before) / budget, highest / budget
    figures = {
        "started": started,
        "before": before,
        "before_highest": before_at_most,
        "highest": highest,
        "after": after,
    }
    said = ", ".join(f"{name.replace('_', ' ')} {size / MIB:.1f}" for name, size in figures.items())
    return {
        "what": f"{budget_mib} MiB, {len(bodies):,} answers of {sum(bodies) / MIB:,.0f} MiB: most in memory above its own, over the budget",
        "measured": f"{grown:.3f} (whole process {whole:.3f}; MiB: {said}; {hits / asked:.0%} hits)",
        "target": f"≤ {AT_MOST}",
        "holds": grown <= AT_MOST,
        "grown": grown,
        "whole": whole,
        "bytes": figures,
        "requests": asked,
        "over_time": over_time,
        "tier": {name: value for name, value in samples.items() if name.startswith("tollgate_cache_")},
    }


def working_set(total):
    """Sizes of bodies that are so much together; the same every time."""
    dice, sizes, sum_of = random.Random(1), [], 0
    while sum_of < total:
        doubling = 200 << dice.randrange(9)
        sizes.append(min(doubling + dice.randrange(doubling), 64 * 1024))
        sum_of += sizes[-1]
    return sizes


def forget_most(gateway):
    """Has the kernel count VmHWM anew (proc(5), clear_refs)."""
    pathlib.Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5\n")
