#!/usr/bin/env python3
"""Counts the instructions that each stage of a request takes, and fails when one takes more than it may.

    python3 scripts/instructions.py [--update]

Instructions do not depend on how busy the machine is, so this says the same everywhere: examples/stages.rs runs every
stage some times under callgrind, which counts what happens in each function of its module `measured`. What a
stage may take stands in benches/instructions.json, and it may take so much more before this fails: compilers differ a
little from release to release. --update writes down what was counted.

It is built like a release but for the optimisation over all crates at once, which takes ten minutes and changes the
counts by little. They are good for being compared with themselves.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
THRESHOLDS = ROOT / "benches" / "instructions.json"
# What a stage may take beyond what is written down.
SLACK = 0.15
# A release, quickly built.
PROFILE = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    "CARGO_PROFILE_RELEASE_DEBUG": "line-tables-only",
    "CARGO_PROFILE_RELEASE_INCREMENTAL": "true",
}
# As in examples/stages.rs.
RUNS = 1200
MODULE = "stages::measured::"


def main():
    update = sys.argv[1:] == ["--update"]
    if sys.argv[1:] and not update:
        sys.exit(__doc__)
    if shutil.which("valgrind") is None:
        sys.exit("instructions: valgrind is missing; on Debian run: sh scripts/install-tools.sh test")
    counted = count(build())
    allowed = json.loads(THRESHOLDS.read_text()) if THRESHOLDS.exists() else {}
    if update:
        THRESHOLDS.write_text(json.dumps(counted, indent=2) + "\n")
    print(f"{'stage':24}{'instructions':>14}{'written down':>14}{'change':>9}")
    faults = []
    for stage in sorted(counted | allowed):
        now, before = counted.get(stage), allowed.get(stage)
        change = f"{(now / before - 1) * 100:+.1f} %" if now and before else "-"
        print(f"{stage:24}{now or '-':>14}{before or '-':>14}{change:>9}")
        if now is None:
            faults.append(f"{stage} is written down in {THRESHOLDS.relative_to(ROOT)} but was not counted")
        elif before is None:
            faults.append(f"{stage} was counted but is not written down in {THRESHOLDS.relative_to(ROOT)}")
        elif now > before * (1 + SLACK):
            faults.append(f"{stage} takes {now} instructions, {change} of the {before} written down; {SLACK:.0%} more may be")
    if faults and not update:
        lines = "\n".join(f"instructions: {fault}" for fault in faults)
        sys.exit(f"{lines}\nIf that is meant to be so, write it down: python3 scripts/instructions.py --update")


def build():
    """The program that runs the stages; its path."""
    command = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--example", "stages"]
    command += ["--message-format=json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, env=os.environ | PROFILE, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in built.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "stages":
            return message["executable"]
    sys.exit("instructions: cargo built no program")


def count(program):
    """Instructions of one run of each stage, with all that it calls."""
    with tempfile.TemporaryDirectory(prefix="tollgate-instructions-") as directory:
        out = pathlib.Path(directory) / "callgrind.out"
        command = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", program]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return totals(out)


def totals(out):
    """What the functions of the module took, from callgrind's format (https://valgrind.org/docs/manual/cl-format.html)."""
    names, taken = {}, collections.Counter()

    def name_of(text):
        number, name = re.match(r"\((\d+)\)(?: (.*))?", text).groups()
        if name:
            names[number] = name
        return names[number]

    function = None
    with open(out, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("fn="):
                function = name_of(line[3:])
            elif line.startswith("cfn="):
                name_of(line[4:])
            elif line[:1].isdigit() or line[:1] in "+-*":
                cost = int(line.split()[1])
                # Its own and those of what it calls stand under the function. Closures are called by it.
                if function and function.startswith(MODULE) and "::" not in function.removeprefix(MODULE):
                    taken[function.removeprefix(MODULE)] += cost
    return {stage: round(total / RUNS) for stage, total in sorted(taken.items())}


if __name__ == "__main__":
    main()
