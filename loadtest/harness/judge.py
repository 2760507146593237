"""Whether targets are met. Every phase has to meet them; the worst is told."""

from .trend import closed_knee, growth, open_knee

# Below this growth nothing is a leak: a page cache, a pool that fills. Bytes, and descriptors.
MEMORY_NOISE = 4 << 20
DESCRIPTOR_NOISE = 8
AT_MOST = {"p50_ms", "p95_ms", "p99_ms", "p999_ms", "failed"}
AT_LEAST = {"kept", "rate"}
# From here on processors are full.
FULL = 0.9
# From this share of the machine on, it is not only measured.
OTHERS_MANY = 0.2


def step_holds(done, targets):
    """Whether a step of a search met what is asked of a step."""
    figures = done.figures()
    return all(met(name, figures[name], wanted) for name, wanted in targets.items() if name in AT_MOST | {"kept"})


def met(name, found, wanted):
    """Times that nobody measured, because nothing was answered, meet nothing."""
    if found is None:
        return False
    return found <= wanted if name in AT_MOST else found >= wanted


def judge(scenario, result, machine_memory, gateway_processors, rate_scale=1.0):
    """Every target with what was found: [{target, wanted, found, holds, where}]."""
    verdicts = []
    search = scenario.steps is not None
    found_knee = knee(scenario, result, gateway_processors)
    for name, wanted in scenario.targets.items():
        if name in AT_MOST | AT_LEAST:
            # A search goes on until something fails, so its steps make the knee instead.
            if search and scenario.generator == "oha":
                continue
            phases = [(phase.figures()[name], phase.name) for phase in result["phases"]]
            missing = [each for each in phases if each[0] is None]
            # The worst phase is told; of the throughput of a search the best.
            greatest = name in AT_MOST or search
            value, where = missing[0] if missing else max(phases) if greatest else min(phases)
            if name == "rate":
                wanted = wanted * rate_scale
            verdicts.append(verdict(name, wanted, value, met(name, value, wanted), where))
        elif name == "knee":
            wanted = wanted * rate_scale
            value = found_knee["rate"]
            verdicts.append(verdict(name, wanted, value, value is not None and value >= wanted, found_knee["says"]))
        elif name == "gateway_cpu":
            cores = [sample["gateway_cores"] for sample in result["samples"] if sample["gateway_cores"] is not None]
            value = sum(cores) / len(cores) / gateway_processors if cores else None
            verdicts.append(verdict(name, wanted, value, value is None or value <= wanted, "mean of its processors"))
        elif name == "gateway_memory":
            sizes = [sample["memory"] for sample in result["samples"] if sample["memory"] is not None]
            value = max(sizes) / machine_memory if sizes else None
            verdicts.append(verdict(name, wanted, value, value is None or value <= wanted, "of the machine's"))
        elif name == "memory_growth":
            verdicts.append(grown(name, wanted, result, "memory", MEMORY_NOISE))
        elif name == "descriptor_growth":
            verdicts.append(grown(name, wanted, result, "descriptors", DESCRIPTOR_NOISE))
            back = result["descriptors"]
            if back is not None:
                holds = back["after"] <= back["before"] + back["stay"]
                says = f"{back['before']} before the load, {back['most']} at most"
                verdicts.append(verdict("descriptors_after", back["before"] + back["stay"], back["after"], holds, says))
    return verdicts, found_knee


def verdict(target, wanted, found, holds, where):
    return {"target": target, "wanted": wanted, "found": found, "holds": holds, "where": where}


def grown(name, wanted, result, what, noise):
    points = [(sample["at"], sample[what]) for sample in result["samples"] if sample[what] is not None]
    found = growth(points)
    if found is None:
        return verdict(name, wanted, None, True, "too short to say, or the process can not be seen")
    grew, slope, middle = found
    requests = sum(phase.answered for phase in result["phases"])
    if what == "memory":
        where = f"{slope * 60 / 1024:+.0f} KiB a minute; a leak below {noise / max(1, requests):.1f} bytes a request is not seen"
    else:
        where = f"{slope * 60:+.1f} a minute"
    return verdict(name, wanted, grew / max(1, middle), grew <= max(wanted * middle, noise), where)


def knee(scenario, result, gateway_processors):
    """Where a search found it, and what was full there; None of a scenario that is no search."""
    if scenario.steps is None:
        return None
    if scenario.generator == "wrk":
        at = closed_knee([(phase.connections, phase.figures()["rate"]) for phase in result["phases"]])
        return {"rate": at[1], "connections": at[0], "found": True, "says": f"with {at[0]} connections"}
    steps = [(phase.rate, step_holds(phase, scenario.targets)) for phase in result["phases"]]
    rate, found = open_knee(steps)
    missed = next((phase for phase, step in zip(result["phases"], steps) if rate is None or step[0] > rate), None)
    if not found or missed is None:
        return {"rate": rate, "found": False, "says": "the last step still held; the knee is beyond it"}
    full = limited_by(missed, result["samples"], gateway_processors)
    found = full in ["gateway", "neither"]
    return {"rate": rate, "found": found, "limited_by": full, "says": SAYS[full]}


SAYS = {
    "gateway": "the gateway's processors were full",
    "load": "the processors of load generator and origin were full: the gateway can do more",
    "others": "other programs took the processors: this says nothing of the gateway",
    "neither": "no processor was full: see what failed, and the latencies",
}


def limited_by(phase, samples, gateway_processors):
    during = [sample for sample in samples if phase.begins < sample["at"] <= phase.to + 1]

    def most(name, of=1):
        return max((sample[name] / of for sample in during if sample[name] is not None), default=0)

    if most("gateway_cores", gateway_processors) >= FULL:
        return "gateway"
    if most("others") >= OTHERS_MANY:
        return "others"
    return "load" if most("load_busy") >= FULL else "neither"
