"""What came of a comparison: figures by variant, ratios within rounds, targets, and the two files."""

import json
import re
import statistics
import subprocess
import time

from machine import ROOT, commit, description

DIRECT = "direct"
# Below this share of its processor a proxy was not what held the load back.
BUSY = 0.95

# What has to hold of a ratio of CPU time per request, taken round by round: of, to, at most, whether it is a must.
RATIOS = [
    ("tollgate-whole", "bare-pingora", 1.10, True),
    ("tollgate-whole", "envoy-policy", 0.60, True),
    ("tollgate-whole", "nginx-policy-log", 1.50, False),
    ("tollgate-policy", "nginx-policy", 1.50, False),
]
# And of what is added to a direct connection at half load, in microseconds.
ADDED = [("tollgate-whole", "p50_us", 150), ("tollgate-whole", "p99_us", 1000)]

COLUMNS = [
    "",
    "does",
    "CPU µs/request",
    "to bare Pingora",
    "requests/s",
    "p50 / p99 / p99.9 at half load, ms",
    "added p50 / p99, µs",
    "RSS",
]


def report(bench, took, results):
    """Prints and writes it; the exit code."""
    names = [running.name for running in bench.running]
    figures = {name: figures_of(bench, name) for name in [*names, DIRECT]}
    verdicts = ratio_verdicts(bench.rounds, names) + added_verdicts(bench.rounds, names)
    text = markdown(bench, figures, verdicts)
    raw = {
        "what": "tollgate beside other proxies: CPU time per request, throughput, latency at half load, memory",
        "commit": commit(),
        "machine": description(),
        "versions": versions(bench),
        "options": {name: getattr(bench.options, name) for name in ["rounds", "seconds", "warmup", "quick", "noisy"]},
        "rate": bench.rate,
        "seconds": took,
        "figures": figures,
        "targets": verdicts,
        "syscalls_per_request": bench.syscalls,
        "rounds": bench.rounds,
    }
    results.mkdir(exist_ok=True)
    stem = results / f"compare-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    print(f"\n{text}")
    for name, calls in bench.syscalls.items():
        print(f"{name:17} system calls per request {sum(calls.values()):.2f}: {calls}")
    print(f"written to {stem.relative_to(ROOT)}.md and .json in {took / 60:.1f} minutes")
    missed = [verdict for verdict in verdicts if verdict["must"] and not verdict["holds"]]
    uncounted = [name for name in figures if figures[name] is None]
    if uncounted:
        print(f"others used the machine whenever these were measured: {', '.join(uncounted)}")
    return 1 if missed or uncounted else 0


def figures_of(bench, name):
    """Medians of the measurements that count; nothing if there are none."""
    half = counting(bench.rounds, name, "half_load")
    saturation = counting(bench.rounds, name, "saturation")
    if not half or (not saturation and name != DIRECT):
        return None
    figures = {"counting_half_load": len(half), "half_load": medians(half)}
    if saturation:
        figures |= {
            "counting_saturation": len(saturation),
            "saturation": medians(saturation),
            "memory_idle": bench.idle_memory[name],
            "memory_after": bench.memory[name],
        }
    return figures


def counting(rounds, name, load):
    found = (measured.get(name, {}).get(load) for measured in rounds)
    return [each for each in found if each and each["counts"]]


def medians(measured):
    return {key: statistics.median(each[key] for each in measured) for key in measured[0] if key != "counts"}


def paired(rounds, one, other, load, figure):
    """Pairs of a figure from rounds in which both count."""
    for measured in rounds:
        both = [measured.get(name, {}).get(load) for name in (one, other)]
        if all(each and each["counts"] for each in both):
            yield both[0][figure], both[1][figure]


def ratio_verdicts(rounds, names):
    verdicts = []
    for one, other, most, must in RATIOS:
        pairs = list(paired(rounds, one, other, "saturation", "cpu_us_per_request"))
        if one in names and other in names and pairs:
            what = f"CPU per request, {one} to {other}"
            verdicts.append(verdict(what, [first / second for first, second in pairs], most, "times", must))
    return verdicts


def added_verdicts(rounds, names):
    verdicts = []
    for name, figure, most in ADDED:
        pairs = list(paired(rounds, name, DIRECT, "half_load", figure))
        if name in names and pairs:
            what = f"{figure.removesuffix('_us')} added by {name} at half load"
            verdicts.append(verdict(what, [first - second for first, second in pairs], most, "us", True))
    return verdicts


def verdict(what, values, most, unit, must):
    middle = statistics.median(values)
    spread = {"median": middle, "min": min(values), "max": max(values), "rounds": len(values)}
    return {"what": what, "unit": unit, "at_most": most, "must": must, "holds": middle <= most, **spread}


def markdown(bench, figures, verdicts):
    direct, machine = figures[DIRECT], description()
    lines = [
        f"One thread each, on {machine['model']}, Linux {machine['kernel']}; {', '.join(versions(bench).values())}."
        f" Medians of {bench.options.rounds} rounds. Half load: {bench.rate:,.0f}/s for all.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for running in bench.running:
        if figures[running.name]:
            lines.append(row(running.variant, figures[running.name], figures.get("bare-pingora"), direct))
    if direct:
        lines.append(f"| no proxy | | | | | {milliseconds(direct['half_load'])} | | |")
    lines += [
        "",
        "≥ before requests/s: the load, not the proxy, was what could do no more. RSS: after the load; of several"
        " processes what they share is counted once.",
    ]
    if verdicts:
        lines += ["", "| target | measured | at most | |", "|---|---|---|---|"]
        lines += [verdict_row(each) for each in verdicts]
    return "\n".join(lines) + "\n"


def row(variant, figures, bare, direct):
    saturation, half = figures["saturation"], figures["half_load"]
    to_bare = added = ""
    if bare:
        to_bare = f"{saturation['cpu_us_per_request'] / bare['saturation']['cpu_us_per_request']:.2f}"
    if direct:
        added = " / ".join(f"{half[name] - direct['half_load'][name]:,.0f}" for name in ["p50_us", "p99_us"])
    held = "" if saturation["cpu_share"] >= BUSY else "≥ "
    cells = [
        variant.proxy,
        variant.does,
        f"{saturation['cpu_us_per_request']:.1f}",
        to_bare,
        f"{held}{saturation['per_second']:,.0f}",
        milliseconds(half),
        added,
        f"{figures['memory_after'] / (1 << 20):.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def milliseconds(half):
    return " / ".join(f"{half[name] / 1000:.2f}" for name in ["p50_us", "p99_us", "p999_us"])


def verdict_row(each):
    digits = 2 if each["unit"] == "times" else 0
    measured = f"{each['median']:,.{digits}f} {each['unit']} ({each['min']:,.{digits}f} to {each['max']:,.{digits}f})"
    said = {
        (True, True): "holds",
        (True, False): "MISSED",
        (False, True): "reached",
        (False, False): "not reached (an aim)",
    }[each["must"], each["holds"]]
    return f"| {each['what']} | {measured} | {each['at_most']:,.{digits}f} | {said} |"


def versions(bench):
    """What is compared, as each says it of itself."""
    asked = {"nginx": ["nginx", "-v"], "HAProxy": ["haproxy", "-v"], "Envoy": [bench.envoy, "--version"]}
    found = {}
    for proxy, command in asked.items():
        if any(running.variant.proxy == proxy for running in bench.running):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
            found[proxy] = f"{proxy} {number.group(0) if number else '?'}"
    return {"tollgate": f"tollgate {commit()}", **found}
