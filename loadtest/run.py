#!/usr/bin/env python3
"""Load tests: a scenario of `loadtest/scenarios/`, passed or failed against its targets.

    python3 loadtest/run.py baseline                        as long as the scenario says
    python3 loadtest/run.py baseline --scale 0.1            a tenth of the time
    python3 loadtest/run.py stress --for 60                 about a minute
    python3 loadtest/run.py all --for 15                    every scenario
    python3 loadtest/run.py spike --url http://127.0.0.1:8280/orders/7 --key KEY      a gateway that runs already
    python3 loadtest/run.py --list                          what there is

Starts a gateway and an origin of its own, each on processors of its own, unless told a URL. Shows what happens while it
runs, then what was asked and found; writes a JSON file and a picture to `loadtest/results/`. Exit code 0 if every target was
met, 1 if not, 2 if it could not be run. loadtest/README.md explains each scenario.

Uses this machine only. Needs oha or wrk, whichever the scenario uses, taskset, and cargo to build; ends what it started,
whatever happens.
"""

import argparse
import os
import pathlib
import shutil
import signal
import sys
import tempfile

from harness.bench import Bench
from harness.generators import Oha, Wrk
from harness.judge import judge
from harness.plan import Wrong, read
from harness.report import Say, table, write
from harness.target import OwnGateway, Running
from machine import ROOT, Failed, Processes, description, pinned
from programs import binaries, need

HERE = pathlib.Path(__file__).resolve().parent
SCENARIOS = HERE / "scenarios"
NOT_RUN = 2


def main():
    options = arguments()
    known = {path.stem: path for path in sorted(SCENARIOS.glob("*.toml"))}
    # As by Ctrl-C: everything that was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_RUN))
    try:
        if options.list:
            for path in known.values():
                scenario = read(path)
                print(f"{scenario.name:16} {scenario.seconds() / 60:6.1f} min  {scenario.about}")
            return 0
        scenarios = chosen(options.scenario, known)
        passed = [run(options, scenario) for scenario in scenarios]
    except (Failed, Wrong) as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return NOT_RUN
    except KeyboardInterrupt:
        return NOT_RUN
    if len(passed) > 1:
        print(f"\n{sum(passed)} of {len(passed)} scenarios passed")
        for scenario, good in zip(scenarios, passed):
            print(f"  {'passed' if good else 'FAILED'} {scenario.name}")
    return 0 if all(passed) else 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help="names, paths of .toml files, or `all`")
    parser.add_argument("--list", action="store_true", help="tell what there is")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--scale", type=positive, default=1.0, help="part of the time that the scenario says (default 1)")
    length.add_argument("--for", dest="seconds", type=positive, help="seconds that a scenario takes, instead")
    parser.add_argument("--rate-scale", type=positive, default=1.0, help="part of the requests per second, and of the rates asked for")
    parser.add_argument("--slice", type=int, help="seconds of one run of the generator (default: 2 to 10, by the length)")
    parser.add_argument("--results", type=pathlib.Path, default=HERE / "results", help="where reports go")
    parser.add_argument("--processors", type=int, help="processors for the own gateway (default: half of them)")
    parser.add_argument("--redis", action="store_true", help="the own gateway keeps its limits through a Redis of its own")
    parser.add_argument("--url", help="measure what runs already, on this machine; {answer} becomes the bytes wanted")
    parser.add_argument("--key", help="its API key")
    parser.add_argument("--status", type=int, help="its status port, for requests per second while it runs")
    parser.add_argument("--pid", type=int, help="its process (default: who listens there)")
    parser.add_argument("--no-build", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--binaries", type=pathlib.Path, help="directory to take binaries from; implies --no-build")
    options = parser.parse_args()
    if not options.list and not options.scenario:
        parser.error("which scenario? See --list")
    if options.slice is not None and options.slice < 1:
        parser.error("--slice takes whole seconds, at least 1")
    options.own = options.url is None
    if options.own and (options.key or options.status or options.pid):
        parser.error("--key, --status and --pid belong to --url")
    if not options.own and (options.redis or options.processors):
        parser.error("--redis and --processors belong to an own gateway, not to --url")
    return options


def positive(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value


def chosen(names, known):
    scenarios = []
    for name in names:
        if name == "all":
            scenarios += [read(path) for path in known.values()]
        elif name.endswith(".toml"):
            scenarios.append(read(pathlib.Path(name)))
        elif name in known:
            scenarios.append(read(known[name]))
        else:
            raise Wrong(f'there is no scenario "{name}"; there are {", ".join(known)}')
    return scenarios


def run(options, scenario):
    """One scenario; whether it passed."""
    if options.seconds:
        options.scale = options.seconds / scenario.seconds()
    tool = find(scenario.generator)
    need("loadtest", "taskset", *(["redis-server"] if options.redis else []))
    processors = sorted(os.sched_getaffinity(0))
    gateway_on, load_on = split(processors, options.processors)
    # In memory where there is such a place: what generators write down may not wait for a disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tollgate-loadtest-", dir=memory) as shared, tempfile.TemporaryDirectory(
        prefix="tollgate-loadtest-"
    ) as directory, Processes(pathlib.Path(directory)) as processes, Processes(pathlib.Path(shared)) as generators:
        if options.own:
            found = binaries(
                "loadtest", "tollgate", "fixed_origin", build=not options.no_build, directory=options.binaries
            )
            target = OwnGateway(processes, found, gateway_on, load_on, options.redis)
        else:
            target = Running(options.url, options.key, options.status, options.pid)
            gateway_on = target.processors() or gateway_on
        make = Oha if scenario.generator == "oha" else Wrk
        generator = make(
            generators, tool, target, scenario.requests, scenario.keep_alive, lambda command: pinned(load_on, command)
        )
        bench = Bench(options, scenario, target, generator, [processes, generators], gateway_on, load_on, Say())
        result = bench.run()
        machine_memory = description()["memory_bytes"]
        verdicts, knee = judge(scenario, result, machine_memory, len(gateway_on), options.rate_scale)
        print(f"\n{table(verdicts)}")
        failures = {}
        for phase in result["phases"]:
            for reason, count in phase.failures.items():
                failures[reason] = failures.get(reason, 0) + count
        for reason, count in sorted(failures.items(), key=lambda each: -each[1])[:8]:
            print(f"         {count:,} × {reason}")
        paths = write(options.results, scenario, options, target, result, verdicts, knee, len(gateway_on))
        passed = all(each["holds"] for each in verdicts)
        print(f"  {scenario.name} {'passed' if passed else 'FAILED'}; {', '.join(paths)}", flush=True)
        return passed


def split(processors, wanted):
    """Processors of the gateway, and those of the load and the origin. With only one they share it."""
    count = wanted or max(1, len(processors) // 2)
    if count >= len(processors) > 1:
        raise Failed(f"{count} processors for the gateway leave none of {len(processors)} for the load")
    return processors[:count], processors[count:] or processors


def find(tool):
    """The generator: on the PATH, or where scripts/install-tools.sh puts it."""
    installed = ROOT / "target" / "tools" / "bin" / tool
    path = shutil.which(tool) or (str(installed) if installed.is_file() else None)
    if path is None:
        raise Failed(f"{tool} is missing; run: sh scripts/install-tools.sh loadtest")
    return path


if __name__ == "__main__":
    sys.exit(main())
