#!/usr/bin/env python3
"""What kept answers cost, beside answers that are fetched, and what they take of memory.

    python3 loadtest/caching/run.py [--quick] [--only hits,latency,memory]

  hits     the same answer kept and fetched, in turn: requests per second of the gateway's processor time, and their ratio
  latency  how long both take at the same pace, half of what the gateway can fetch
  memory   a working set ten times larger than what may be kept: the most that the gateway had in memory at any time

`hits` and `latency` measure one gateway with an API whose answers are kept (`cache: {}`) and the same without, both before the
same origin; first open to everybody, then for a hashed key with two limits. The origin says that its answers are fresh for an
hour. Two runs that follow each other make a pair, and the median of the pairs counts, so that a drift falls on both sides. That
every answer was kept, or none, is read from the gateway's counters.

`memory` is counted as the kernel does, as resident memory of the whole process (VmHWM, which no sampling can miss) less what
the same process had after a load of the same answers without a cache: its code, its connections and their buffers. What is
above the budget then is the cache's doing. The bodies have 200 bytes to 64 KiB, every doubling as often as the next, and are
asked for at random, a quarter of the time one of the first fiftieth.

The gateway runs on one thread on the first processor; load and origin share the others. Measurements during which others
used the machine are taken again, within bounds; --noisy counts them all: processor time suffers little from others.

Takes about six minutes, --quick less than two. Writes `loadtest/results/caching-*.json` and the same as a table. Exit code 1 if
a target was missed, or something could not be measured or only beside others. Uses loopback only; ends what it started.
Needs wrk, taskset and cargo.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import hits  # noqa: E402
import working_set  # noqa: E402
from bench import Bench  # noqa: E402
from machine import ROOT, Failed, Processes, commit, description  # noqa: E402
from programs import binaries, need  # noqa: E402

RESULTS = HERE.parent / "results"

PARTS = {
    "hits": hits.hits,
    "latency": hits.latency,
    "memory": working_set.memory,
}


def main():
    options = arguments()
    need("caching", "wrk", "taskset")
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        sys.exit("caching: needs two processors: one for the gateway, one for the load and the origin")
    names = ["tollgate", "fixed_origin", "pace"]
    programs = binaries("caching", *names, build=not options.no_build, directory=options.binaries)
    began, figures, failures = time.monotonic(), [], []
    for name in options.only:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="tollgate-caching-") as directory:
            with Processes(pathlib.Path(directory)) as processes:
                try:
                    bench = Bench(options, programs, processes, processors)
                    for figure in PARTS[name](bench):
                        figures.append({"part": name, **figure})
                        print(f"  {': '.join(cells(figure))}", flush=True)
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
    missed = [figure for figure in figures if verdict(figure) not in ["holds", ""]]
    machine = description()
    raw = {
        "what": "kept answers beside fetched ones, and what they take of memory",
        "commit": commit(),
        "machine": machine,
        "options": {"quick": options.quick, "noisy": options.noisy, "only": options.only},
        "seconds": took,
        "failures": failures,
        "figures": figures,
    }
    lines = [f"One thread, on {machine['model']}, Linux {machine['kernel']}; tollgate {commit()}.", ""]
    lines += ["| | measured | target | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(cells(figure))} |" for figure in figures]
    lines += [f"\nnot finished: {failure}" for failure in failures]
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"caching-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    print(f"\n{text}")
    print(f"written to {stem.relative_to(ROOT)}.md and .json in {took / 60:.1f} minutes")
    return 1 if missed or failures else 0


def cells(figure):
    return [figure["what"], figure["measured"], figure.get("target", ""), verdict(figure)]


def verdict(figure):
    """Whether it holds; of what was never measured on a quiet machine, nothing is known; some figures have no target."""
    if "holds" not in figure:
        return ""
    if not figure.get("counts", True):
        return "not known (others used the machine)"
    return "holds" if figure["holds"] else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
