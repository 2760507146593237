"""What every part needs: a gateway before an origin whose answers may be kept, and loads for it."""

import json
import os
import re
import subprocess

from machine import Failed, cpu_seconds, pinned
from programs import Gateway, new_key, start_origin
from quiet import Quiet

CONNECTIONS = 64
# How many measurements of a part may be taken once more.
AGAIN = 10
# A limit that no load here reaches.
FAR = 1_000_000_000
SCRIPT = os.path.join(os.path.dirname(__file__), "requests.lua")


class Bench:
    """Gateway on the first processor, everything else on the others."""

    def __init__(self, options, programs, processes, processors):
        self.options, self.programs, self.processes = options, programs, processes
        self.first, *self.others = processors
        self.quietly = Quiet(processes.cpu_seconds, AGAIN, options.noisy)
        _, port = start_origin(processes, programs["fixed_origin"], "0", "max-age=3600", on=self.on_load)
        self.origin = f"127.0.0.1:{port}"
        self.key, self.record = new_key(programs["tollgate"], "load")
        self.lists = 0

    def on_load(self, command):
        return pinned(self.others, command)

    def gateway(self, memory):
        """One that may keep so much. What it publishes below /open/ is for everybody, below /keyed/ for a key within two
        limits; of both, there is one that is kept and one that is fetched."""
        apis = [
            {
                "name": f"{access}-{way}",
                "base_path": f"/{access}/{way}",
                "auth": "none" if access == "open" else ["api_key"],
                "upstream": "origin",
                **({"cache": {}} if way == "kept" else {}),
            }
            for access in ["open", "keyed"]
            for way in ["kept", "fetched"]
        ]
        limits = [{"name": "burst", "rate": f"{FAR}/s"}, {"name": "hour", "rate": f"{FAR}/h"}]
        subscriptions = [{"api": api["name"], "plan": "plan"} for api in apis if api["auth"] != "none"]
        revision = {
            "version": 1,
            "upstreams": [{"name": "origin", "endpoints": [{"address": self.origin}]}],
            "plans": [{"name": "plan", "limits": limits}],
            "apis": apis,
            "applications": [{"name": "load", "subscriptions": subscriptions, "keys": [self.record]}],
        }
        on = lambda command: pinned([self.first], command)  # noqa: E731
        return Gateway(self.processes, self.programs["tollgate"], revision, {"cache": {"memory": memory}}, on=on)

    def list(self, paths):
        """A file of requests: key and path."""
        self.lists += 1
        file = self.processes.directory / f"requests-{self.lists}.txt"
        file.write_text("".join(f"{self.key if path.startswith('/keyed/') else '-'} {path}\n" for path in paths))
        return file

    def saturated(self, gateway, requests, seconds, order="in-turn"):
        """As fast as it can: what was answered, and the gateway's processor time for each."""
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", SCRIPT, f"http://127.0.0.1:{gateway.port}"]
        os.truncate(gateway.access_log, 0)
        cpu, kept = cpu_seconds(gateway.process), hits_of(gateway)
        output = self.ask(self.on_load([*command, "--", requests, order]), seconds)
        result = json.loads(re.search(r"^RESULT (.*)$", output, re.MULTILINE).group(1))
        if result["failed"]:
            raise Failed(f"requests failed; this measures nothing\n{output}{''.join(gateway.refused())}")
        result["cpu_seconds"] = cpu_seconds(gateway.process) - cpu
        result["cpu_us"] = result["cpu_seconds"] / result["requests"] * 1e6
        result["per_second"] = result["requests"] / result["seconds"]
        result["hit_share"] = min(1.0, (hits_of(gateway) - kept) / result["requests"])
        return result

    def paced(self, gateway, requests, rate, seconds):
        """So many requests per second for so long; what pace reports."""
        command = [self.programs["pace"], "--target", f"127.0.0.1:{gateway.port}", "--requests", requests]
        command += ["--rate", rate, "--count", max(1, int(rate * seconds)), "--connections", CONNECTIONS]
        kept = hits_of(gateway)
        report = json.loads(self.ask(self.on_load(command), seconds))
        if set(report["latency_us"]) != {"200"}:
            raise Failed(f"not every answer was 200: {report['latency_us']}")
        report["hit_share"] = min(1.0, (hits_of(gateway) - kept) / report["requests"])
        return report

    def ask(self, command, seconds):
        command = [str(part) for part in command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * seconds + 60, check=False)
        if done.returncode != 0:
            raise Failed(f"{command[3]}: {done.stdout}{done.stderr}")
        return done.stdout


def hits_of(gateway):
    """How many requests it has answered from memory."""
    samples = gateway.metrics().items()
    named = [value for name, value in samples if name.startswith("tollgate_cache_requests_total{") and is_hit(name)]
    return sum(named)


def is_hit(name):
    return 'result="hit"' in name and 'tier="memory"' in name
