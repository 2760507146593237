"""What is said while a scenario runs, and what is left of it: a table, a JSON file, a picture."""

import json
import time

from machine import ROOT, commit, description

from .picture import Line, Panel, clock, draw

# While others use more of the machine, absolute figures belong to them too.
OTHERS_SAID = 0.10
# At most so many lines while a scenario runs.
LINES = 600
MIB = 1 << 20


class Say:
    """A line a second on a short run, fewer on a long one."""

    def __init__(self):
        self.every, self.next = 1, 0

    def begins(self, scenario, seconds):
        self.every, self.next = max(1, seconds / LINES), 0
        print(f"\n{scenario.title}: {scenario.about}")
        print(f"{'time':>6}  {'phase':16} {'rate/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'failed':>7}  {'gateway CPU':>11} "
              f"{'RSS':>8} {'open':>5} {'load CPU':>8} {'others':>6}", flush=True)

    def sample(self, sample, phase, latest):
        if sample["at"] < self.next:
            return
        self.next = sample["at"] + self.every - 0.5
        p50 = p99 = failed = None
        rate = sample["rate"]
        if latest is not None:
            _, latencies, (_answered, failed) = latest
            p50, p99 = latencies.milliseconds(0.5), latencies.milliseconds(0.99)
        print(
            f"{clock(sample['at']):>6}  {phase.name if phase else '':16} {shown(rate, '.0f'):>8} {shown(p50, '.2f'):>8}"
            f" {shown(p99, '.2f'):>8} {shown(failed, 'd'):>7}  {percent(sample['gateway_cores'], 'core'):>11}"
            f" {shown(sample['memory'] and sample['memory'] / MIB, '.1f', ' MiB'):>8} {shown(sample['descriptors'], 'd'):>5}"
            f" {percent(sample['load_busy']):>8} {percent(sample['others']):>6}",
            flush=True,
        )

    def step(self, done, holds):
        figures = done.figures()
        print(
            f"        step {done.name:12} {'holds' if holds else 'misses':7} {figures['rate']:8.0f}/s answered,"
            f" p99 {shown(figures['p99_ms'], '.2f')} ms, {100 * figures['failed']:.3f} % failed",
            flush=True,
        )


def shown(value, how, unit=""):
    return "-" if value is None else f"{value:{how}}{unit}"


def percent(value, of=None):
    return "-" if value is None else f"{100 * value:.0f} %{f' {of}' if of else ''}"


UNITS = {"p50_ms": "ms", "p95_ms": "ms", "p99_ms": "ms", "p999_ms": "ms", "rate": "/s", "knee": "/s"}
COUNTS = {"descriptors_after"}
NAMES = {
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "p999_ms": "p99.9",
    "failed": "failed requests",
    "kept": "answered of what was due",
    "rate": "throughput",
    "knee": "knee",
    "gateway_cpu": "gateway CPU",
    "gateway_memory": "gateway memory",
    "memory_growth": "memory growth",
    "descriptor_growth": "descriptor growth",
    "descriptors_after": "descriptors after",
}
LEAST = {"kept", "rate", "knee"}


def figure(name, value):
    if value is None:
        return "none"
    if name in UNITS:
        return f"{value:,.2f} ms" if UNITS[name] == "ms" else f"{value:,.0f}/s"
    if name in COUNTS:
        return f"{value}"
    return f"{100 * value:.4g} %"


def table(verdicts):
    """What was asked and what was found."""
    lines = []
    for each in verdicts:
        sign = ">=" if each["target"] in LEAST else "<="
        asked = f"{sign} {figure(each['target'], each['wanted'])}"
        lines.append(
            f"  {'ok    ' if each['holds'] else 'MISSED'} {NAMES[each['target']]:26} {figure(each['target'], each['found']):>14}"
            f"  asked {asked:14}  {each['where'] or ''}"
        )
    return "\n".join(lines)


def write(directory, scenario, options, target, result, verdicts, knee, gateway_processors):
    """The JSON file and the picture; their paths."""
    passed = all(each["holds"] for each in verdicts)
    others = [sample["others"] for sample in result["samples"]]
    mean_others = sum(others) / len(others) if others else 0.0
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    raw = {
        "scenario": scenario.name,
        "what": scenario.about,
        "passed": passed,
        "target": target.what,
        "generator": scenario.generator,
        "commit": commit(),
        "at": stamp,
        "machine": description(),
        "gateway_processors": gateway_processors,
        "others_share_of_machine": mean_others,
        "options": {"scale": options.scale, "rate_scale": options.rate_scale},
        "seconds": result["seconds"],
        "requests": sum(phase.answered for phase in result["phases"]),
        "targets": verdicts,
        "knee": knee,
        "descriptors": result["descriptors"],
        "phases": [
            {
                "name": phase.name,
                "begins": round(phase.begins, 2),
                "ends": round(phase.to, 2),
                "offered": phase.offered,
                "answered": phase.answered,
                "failures": dict(phase.failures),
                **phase.figures(),
            }
            for phase in result["phases"]
        ],
        "points": result["points"],
        "samples": result["samples"],
    }
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"{scenario.name}-{stamp}"
    stem.with_suffix(".json").write_text(json.dumps(tidy(raw), indent=1) + "\n")
    stem.with_suffix(".svg").write_text(picture(scenario, raw, result))
    if mean_others > OTHERS_SAID:
        print(f"  Other programs used {percent(mean_others)} of this machine: what was missed may be their fault, not the gateway's.")
    return [shortened(stem.with_suffix(suffix)) for suffix in [".json", ".svg"]]


def picture(scenario, raw, result):
    targets, points, samples = scenario.targets, result["points"], result["samples"]

    def over_time(name, series=points, of=1):
        return [(each["at"], None if each[name] is None else each[name] / of) for each in series]

    offered = []
    for phase in result["phases"]:
        if phase.rate is not None:
            offered += [*phase.due, (phase.to, phase.due[-1][1])]
    lines = [Line("answered", over_time("answered"), 0)]
    lines += [Line("due", offered, 3, steps=True)] if offered else []
    lines += [Line("failed", over_time("failed"), 1)] if any(each["failed"] for each in points) else []
    panels = [
        Panel("Throughput", "requests per second", lines),
        Panel(
            "Latency",
            "milliseconds, logarithmic",
            [
                Line("p50", over_time("p50_ms"), 0, target=targets.get("p50_ms")),
                Line("p95", over_time("p95_ms"), 2, target=targets.get("p95_ms")),
                Line("p99", over_time("p99_ms"), 1, target=targets.get("p99_ms")),
            ],
            logarithmic=True,
        ),
        Panel(
            "Processors",
            "percent",
            [
                Line("gateway, of a core", over_time("gateway_cores", samples, 0.01), 0),
                Line("load's processors", over_time("load_busy", samples, 0.01), 3),
                Line("others, of all", over_time("others", samples, 0.01), 2),
            ],
        ),
        Panel("Memory of the gateway", "MiB", [Line("RSS", over_time("memory", samples, MIB), 0)]),
        Panel("Descriptors of the gateway", "open", [Line("open", over_time("descriptors", samples), 0)]),
    ]
    machine = raw["machine"]
    subtitle = (
        f"{raw['target']} · {machine['processors']} × {machine['model']} · {raw['generator']} · commit {raw['commit']} · {raw['at']}"
    )
    phases = [(phase.begins, phase.name) for phase in result["phases"]] if len(result["phases"]) > 1 else []
    title = f"{scenario.title}: {raw['requests']:,} requests"
    if raw["knee"] and raw["knee"]["rate"]:
        title += f", knee {'' if raw['knee']['found'] else 'beyond '}{raw['knee']['rate']:,.0f}/s"
    return draw(title, subtitle, raw["passed"], panels, raw["seconds"], phases)


def tidy(value):
    """Numbers with as many digits as they deserve."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) < 1e6 else round(value)
    if isinstance(value, dict):
        return {key: tidy(each) for key, each in value.items()}
    return [tidy(each) for each in value] if isinstance(value, list) else value


def shortened(path):
    try:
        return str(path.resolve().relative_to(ROOT))
    except ValueError:
        return str(path)
