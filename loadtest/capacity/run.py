#!/usr/bin/env python3
"""What one gateway has to hold, each figure with its target.

    python3 loadtest/capacity/run.py [--quick] [--only rates,latency,routes,idle,faults]

  rates    3,000 validated and 5,000 throttled requests per second, at that rate: how much of one core the gateway takes
  latency  what the gateway adds to a direct connection, at half of what it can do
  routes   100,000 routes: memory, and how long a change of one of them takes
  idle     10,000 connections on which nothing happens: memory for each, before and after a first request
  faults   Redis and the control plane killed, stopped and slowed under load: answers, and the p99 with and without

The gateway does its whole work everywhere: 10,000 routes (100,000 in `routes`), a hundred hashed keys, two limits with Redis,
metrics, access log. It runs on one thread on the first processor; load, origin and Redis share the others. The load is
examples/pace, which sends each request at its own time. Measurements during which others used the machine are taken again,
within bounds; --noisy counts them all.

Takes about ten minutes, --quick less than three. Writes `loadtest/results/capacity-*.json` and the same as a table. Exit code 1
if a target was missed, or something could not be measured or only beside others. Uses loopback only; ends what it started.
Needs wrk, taskset, redis-server and cargo.
"""

import argparse
import json
import os
import pathlib
import resource
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import faults  # noqa: E402
import idle  # noqa: E402
import rates  # noqa: E402
import routes  # noqa: E402
from bench import Bench  # noqa: E402
from machine import ROOT, Failed, Processes, commit, description  # noqa: E402
from programs import binaries, need  # noqa: E402

RESULTS = HERE.parent / "results"

PARTS = {
    "rates": rates.rates,
    "latency": rates.latency,
    "routes": routes.routes,
    "idle": idle.idle,
    "faults": faults.faults,
}


def main():
    options = arguments()
    need("capacity", "wrk", "taskset", "redis-server")
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        sys.exit("capacity: needs two processors: one for the gateway, one for the load and the origin")
    names = ["tollgate", "fixed_origin", "pace"]
    programs = binaries("capacity", *names, build=not options.no_build, directory=options.binaries)
    # Ten thousand connections here, and as many in the gateway.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began, figures, failures = time.monotonic(), [], []
    for name in options.only:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="tollgate-capacity-") as directory:
            with Processes(pathlib.Path(directory)) as processes:
                try:
                    bench = Bench(options, programs, processes, processors)
                    for figure in PARTS[name](bench):
                        figures.append({"part": name, **figure})
                        print(said(figure), flush=True)
                except Failed as failed:
                    failures.append(f"{name}: {failed}")
                    print(f"not finished: {failed}", flush=True)
    return report(options, figures, failures, time.monotonic() - began)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short measurements: to try it, not to quote it")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--noisy", action="store_true", help="count every measurement, whoever else uses the machine")
    parser.add_argument("--no-build", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--binaries", type=pathlib.Path, help="directory to take binaries from; implies --no-build")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = [name for name in options.only if name not in PARTS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return options


def report(options, figures, failures, took):
    missed = [figure for figure in figures if not figure["holds"] or not figure.get("counts", True)]
    raw = {
        "what": "what one gateway has to hold",
        "commit": commit(),
        "machine": description(),
        "options": {"quick": options.quick, "noisy": options.noisy, "only": options.only},
        "seconds": took,
        "failures": failures,
        "figures": figures,
    }
    machine = description()
    lines = [f"One thread, on {machine['model']}, Linux {machine['kernel']}; tollgate {commit()}.", ""]
    lines += ["| | measured | target | |", "|---|---|---|---|", *map(row, figures)]
    lines += [f"\nnot finished: {failure}" for failure in failures]
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"capacity-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    print(f"\n{text}")
    print(f"written to {stem.relative_to(ROOT)}.md and .json in {took / 60:.1f} minutes")
    return 1 if missed or failures else 0


def said(figure):
    return f"  {figure['what']}: {value(figure, 'measured')} (at most {value(figure, 'at_most')}): {verdict(figure)}"


def row(figure):
    return f"| {figure['what']} | {value(figure, 'measured')} | ≤ {value(figure, 'at_most')} | {verdict(figure)} |"


def verdict(figure):
    """Whether it holds; of what was never measured on a quiet machine, nothing is known."""
    if not figure.get("counts", True):
        return "not known (others used the machine)"
    return "holds" if figure["holds"] else "MISSED"


def value(figure, name):
    return f"{figure[name]:,.{figure.get('digits', 0)}f} {figure['unit']}"


if __name__ == "__main__":
    sys.exit(main())
