"""A hundred thousand routes: what they take in memory, and how long a change of one of them takes.

A revision file is looked at five times a second, and a change is taken once two looks in a row have seen the same file. So
between the change and the first request that sees it lie 200 to 400 ms of waiting, which is the price of never reading half
a file, and then reading, checking, compiling and swapping. The second part is measured as what the thread that does it took:
its time on the processor and its time of waiting for one, as the kernel counts them. The whole is reported beside it.
"""

import http.client
import os
import pathlib
import statistics
import time

from journey import ROUTES_PER_API, two_limits
from machine import Failed, memory

ROUTES = 100_000
MEMORY_MB, SWAP_MS = 300, 300
WITHIN = 30
# An application uses a part of a gateway of this size.
SUBSCRIPTIONS = 20


def routes(bench):
    swaps = 3 if bench.options.quick else 10
    revision = bench.journey.revision(bench.origin, two_limits(), ROUTES // ROUTES_PER_API, SUBSCRIPTIONS)
    began = time.monotonic()
    gateway = bench.gateway(revision)
    started = time.monotonic() - began
    log = gateway.process.log.read_text(errors="replace")
    if f" applied: {ROUTES} routes" not in log:
        raise Failed(f"the gateway has not applied {ROUTES:,} routes\n{log}")
    loaded = memory(gateway.process), memory(gateway.process, "VmHWM")
    path = gateway_revision(gateway)
    key = bench.journey.keys[0][1]
    changes = [change(gateway, path, key, number) for number in range(swaps)]
    time.sleep(1)
    after = memory(gateway.process), memory(gateway.process, "VmHWM")
    more = {
        "revision_bytes": path.stat().st_size,
        "start_seconds": started,
        "memory_after_start": loaded[0],
        "most_at_start": loaded[1],
        "memory_after_changes": after[0],
        "most_after_changes": after[1],
    }
    used = max(loaded[0], after[0]) / 1e6
    yield {
        "what": f"memory of {ROUTES:,} routes, before and after {swaps} changes (the greater)",
        "measured": used,
        "at_most": MEMORY_MB,
        "unit": "MB",
        "holds": used <= MEMORY_MB,
        **more,
    }
    took = statistics.median(each["work_ms"] for each in changes)
    whole = statistics.median(each["seen_ms"] for each in changes)
    yield {
        "what": f"one route changed: read, checked, compiled, swapped (seen after {whole:,.0f} ms, with the file's watch)",
        "measured": took,
        "at_most": SWAP_MS,
        "unit": "ms",
        "holds": took <= SWAP_MS,
        "changes": changes,
    }


def gateway_revision(gateway):
    return next(gateway.processes.directory.glob(f"gateway-{gateway.port}.revision.yaml"))


def change(gateway, path, key, number):
    """Changes a route that nobody else uses, and waits until a request finds it."""
    changed = f"/{{id}}/changed-{number}"
    text = path.read_text()
    old = "/{id}/part-000" if number == 0 else f"/{{id}}/changed-{number - 1}"
    fresh = path.with_suffix(".new")
    fresh.write_text(text.replace(f'"{old}"', f'"{changed}"', 1))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WITHIN)
    target = f"/api-000/items/1/changed-{number}"
    if status(connection, target, key) != 404:
        raise Failed(f"{target} is there before it was published")
    before = threads(gateway)
    began = time.monotonic()
    os.replace(fresh, path)
    while status(connection, target, key) != 200:
        if time.monotonic() > began + WITHIN:
            raise Failed(f"the change is not applied\n{gateway.process.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.002)
    seen = time.monotonic() - began
    # The thread that worked; the others have served a few requests.
    ran, waited = max(
        (
            (ran - before.get(thread, (0, 0))[0], waited - before.get(thread, (0, 0))[1])
            for thread, (ran, waited) in threads(gateway).items()
        ),
        key=sum,
    )
    connection.close()
    return {
        "seen_ms": seen * 1000,
        "ran_ms": ran / 1e6,
        "work_ms": (ran + waited) / 1e6,
        "memory": memory(gateway.process),
    }


def status(connection, target, key):
    connection.request("GET", target, headers={"X-API-Key": key})
    response = connection.getresponse()
    response.read()
    return response.status


def threads(gateway):
    """Nanoseconds on a processor, and of waiting for one, of each thread."""
    found = {}
    for path in pathlib.Path(f"/proc/{gateway.process.pid}/task").glob("*/schedstat"):
        running, waiting, _ = path.read_text().split()
        found[path.parent.name] = int(running), int(waiting)
    return found
