#!/usr/bin/env python3
"""What active checks cost: processor time of a gateway that asks thousands of endpoints, less that of one that asks nobody.

    python3 loadtest/health/run.py [--endpoints 2000] [--interval 10] [--seconds 60] [--probe http|tcp] [--built]

The endpoints are addresses 127.0.x.y of one origin that listens on all of them, so each check is a connection to another
address. Both gateways have the same revision but for `health_check`, and run one after the other, several rounds. No
requests are sent. Processor time is that of the process, in user and system mode; what the kernel does for the origin's
side of a connection over loopback within the gateway's system calls is counted as the gateway's.

Uses loopback only. Needs cargo; ends what it started, whatever happens.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from machine import ROOT, Failed, Processes, cpu_seconds  # noqa: E402
from programs import Gateway, binaries, start_origin  # noqa: E402

# Everybody is asked for the first time within three seconds, and that is not what an interval costs.
WARM_UP = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--interval", type=int, default=10, help="seconds between two checks (default 10)")
    parser.add_argument("--seconds", type=float, default=60, help="time of a round (default 60)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--probe", choices=["http", "tcp"], default="http", help="how they are asked (default http)")
    parser.add_argument("--built", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--profile", default="release", help="directory of the binaries below target (default release)")
    options = parser.parse_args()
    directory = ROOT / "target" / options.profile if options.built else None
    programs = binaries("health", "tollgate", "fixed_origin", build=not options.built, directory=directory)
    with tempfile.TemporaryDirectory(prefix="tollgate-health-") as directory, Processes(
        pathlib.Path(directory)
    ) as processes:
        _, port = start_origin(processes, programs["fixed_origin"], address="0.0.0.0")
        rounds = {False: [], True: []}
        for _ in range(options.rounds):
            for checked in rounds:
                rounds[checked].append(measure(options, processes, programs["tollgate"], port, checked))
    report(options, rounds)


def measure(options, processes, binary, origin, checked):
    """A gateway for a while: its share of a core, how many checks it made, and its memory."""
    upstream = {
        "name": "orders",
        "endpoints": [
            {"address": f"127.0.{number // 250 + 1}.{number % 250 + 1}:{origin}"} for number in range(options.endpoints)
        ],
    }
    if checked:
        upstream["health_check"] = {"interval": f"{options.interval}s", "timeout": "2s"}
        if options.probe == "http":
            upstream["health_check"]["path"] = "/health"
    revision = {
        "version": 1,
        "upstreams": [upstream],
        "apis": [{"name": "orders", "base_path": "/", "auth": "none", "upstream": "orders"}],
    }
    gateway = Gateway(processes, binary, revision)
    time.sleep(WARM_UP)
    checks, used, since = counted(gateway), cpu_seconds(gateway.process), time.monotonic()
    time.sleep(options.seconds)
    elapsed = time.monotonic() - since
    share = (cpu_seconds(gateway.process) - used) / elapsed
    good, failed = (after - before for after, before in zip(counted(gateway), checks))
    if failed:
        raise Failed(f"{failed:.0f} checks failed\n{gateway.process.log.read_text(errors='replace')[-2000:]}")
    found = {"share": share, "per_second": good / elapsed, "memory": gateway.memory()}
    gateway.end()
    return found


def counted(gateway):
    """Good checks and failed ones so far."""
    samples = gateway.metrics()

    def of(result):
        prefix = f'tollgate_health_checks_total{{result="{result}",'
        return sum(value for name, value in samples.items() if name.startswith(prefix))

    return of("good"), of("failed")


def report(options, rounds):
    def middle(checked, name):
        return statistics.median(each[name] for each in rounds[checked])

    without, with_checks = middle(False, "share"), middle(True, "share")
    per_second = middle(True, "per_second")
    print(f"{options.endpoints} endpoints, every {options.interval} s, by {options.probe}: {per_second:.0f} checks per second")
    print(f"without checks {without:.2%} of a core, with them {with_checks:.2%}: they cost {with_checks - without:.2%}")
    print(f"{(with_checks - without) / per_second * 1e6:.0f} µs each; memory {middle(True, 'memory') / 2**20:.0f} MiB,"
          f" without them {middle(False, 'memory') / 2**20:.0f} MiB")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"health: {error}")
