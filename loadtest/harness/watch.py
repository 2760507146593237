"""What the machine does while a scenario runs: the gateway's processor time, memory and descriptors, and who else is busy."""

import os
import time

from machine import busy_seconds, cpu_seconds, descriptors, ended_seconds, memory

# A run is seen at about so many moments, at most one a second.
MOMENTS = 1200


class Watch:
    """Looks when it is told to. Times are seconds since `began`."""

    def __init__(self, target, everything, gateway_on, load_on, began, seconds):
        self.target, self.everything = target, everything
        self.gateway_on, self.load_on, self.began = gateway_on, load_on, began
        self.every = max(1, seconds // MOMENTS)
        self.samples = []
        self.last = None
        self.next = 0

    def look(self, force=False):
        """A sample, if it is time for one."""
        now = time.monotonic() - self.began
        if now < self.next and not force:
            return None
        self.next = now - now % self.every + self.every
        seen, was = self._totals(now), self.last
        self.last = seen
        if was is None or seen["at"] - was["at"] < 0.2:
            return None
        took = seen["at"] - was["at"]

        def share(name, of=1):
            if seen[name] is None or was[name] is None or seen["pid"] != was["pid"]:
                return None
            return max(0.0, (seen[name] - was[name]) / took / of)

        ours = (seen["ours"] - was["ours"]) / took
        if self._foreign():
            ours += share("cpu") or 0
        sample = {
            "at": round(seen["at"], 2),
            "gateway_cores": share("cpu"),
            "load_busy": share("load", len(self.load_on)),
            "others": max(0.0, (seen["all"] - was["all"]) / took - ours) / os.cpu_count(),
            "memory": seen["memory"],
            "descriptors": seen["descriptors"],
            "rate": share("requests"),
        }
        self.samples.append(sample)
        return sample

    def _foreign(self):
        """Whether the gateway is none of the processes that were started here."""
        process = self.target.process()
        return process is not None and all(
            process.pid != each.pid for some in self.everything for each in some.running
        )

    def _totals(self, now):
        process = self.target.process()
        totals = {
            "at": now,
            "pid": None if process is None else process.pid,
            "cpu": None,
            "memory": None,
            "descriptors": None,
            "requests": None,
            "load": busy_seconds(self.load_on),
            "all": busy_seconds(set(range(os.cpu_count()))),
            "ours": used_by(self.everything),
        }
        if process is not None:
            try:
                totals |= {"cpu": cpu_seconds(process), "memory": memory(process), "descriptors": descriptors(process)}
            except (OSError, StopIteration):
                pass
        try:
            samples = self.target.metrics()
        except OSError:
            samples = None
        if samples:
            counted = [value for name, value in samples.items() if name.startswith("tollgate_requests_total")]
            totals["requests"] = sum(counted)
        return totals


def used_by(everything):
    """Processor time of all that was started, and of this program."""
    return ended_seconds() + sum(cpu_seconds(process) for some in everything for process in some.running)
