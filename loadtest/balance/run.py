#!/usr/bin/env python3
"""How long answers take when one of four endpoints is slow, with each way to choose between them.

    python3 loadtest/balance/run.py [--seconds 15] [--rate 1200] [--built]

Three endpoints answer in 5 ms, one in 60 ms. Requests come at a pace of their own (an open loop), whether or not others
have been answered. Each way gets its own gateway and its own time, and they are measured in turn, several rounds; what
is printed are medians over the rounds. The machine is shared by all programs, so absolute times belong to it; compare
the columns.

Uses loopback only. Needs cargo; ends what it started, whatever happens.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from machine import Failed, Processes  # noqa: E402
from programs import Gateway, binaries, start_origin  # noqa: E402

WAYS = ["round_robin", "random", "least_connections", "least_response_time"]
FAST_MS, SLOW_MS = 5, 60


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="time of a round (default 15)")
    parser.add_argument("--rate", type=float, default=1200, help="requests per second (default 1200)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each way (default 3)")
    parser.add_argument("--built", action="store_true", help="measure the binaries that are there")
    options = parser.parse_args()
    programs = binaries("balance", "tollgate", "fixed_origin", "pace", build=not options.built)
    with tempfile.TemporaryDirectory(prefix="tollgate-balance-") as directory, Processes(
        pathlib.Path(directory)
    ) as processes:
        delays = [FAST_MS, FAST_MS, FAST_MS, SLOW_MS]
        origins = [start_origin(processes, programs["fixed_origin"], delay)[1] for delay in delays]
        results = {way: [] for way in WAYS}
        for number in range(options.rounds):
            # Another order each time, so that a drift of the machine falls on all.
            for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
                results[way].append(measure(options, processes, programs, origins, way))
    report(options, results)


def measure(options, processes, programs, origins, way):
    """One way for a while: what `pace` says of it."""
    endpoints = [{"address": f"127.0.0.1:{origin}"} for origin in origins]
    revision = {
        "version": 1,
        "upstreams": [{"name": "orders", "balance": way, "endpoints": endpoints}],
        "apis": [{"name": "orders", "base_path": "/", "auth": "none", "upstream": "orders"}],
    }
    gateway = Gateway(processes, programs["tollgate"], revision)
    pace(programs["pace"], gateway.port, options.rate, 2 * options.rate)
    done = pace(programs["pace"], gateway.port, options.rate, options.seconds * options.rate)
    gateway.end()
    return done


def pace(binary, port, rate, count):
    command = [binary, "--target", f"127.0.0.1:{port}", "--rate", rate]
    command += ["--count", int(count), "--connections", 256]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"pace: {done.stderr}")
    return json.loads(done.stdout)


def report(options, results):
    print(f"{options.rate:.0f} requests per second; three endpoints answer in {FAST_MS} ms, one in {SLOW_MS} ms\n")
    print("| balance | p50 | p99 | failed |")
    print("|---|---|---|---|")
    for way, rounds in results.items():
        def middle(name):
            return statistics.median(each["latency_us"]["200"][name] for each in rounds) / 1000

        failed = sum(each["requests"] - each["latency_us"]["200"]["count"] for each in rounds)
        print(f"| {way} | {middle('p50'):.1f} ms | {middle('p99'):.1f} ms | {failed} |")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"balance: {error}")
