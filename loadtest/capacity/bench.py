"""What every part needs: a whole gateway before an origin, and loads for it."""

import json
import os
import re
import subprocess

from journey import SHARED, Journey
from machine import Failed, cpu_seconds, pinned
from programs import Gateway, RedisServer, start_origin
from quiet import Quiet

CONNECTIONS = 64
# How many measurements of a part may be taken once more.
AGAIN = 10


class Bench:
    """Gateway on the first processor, everything else on the others."""

    def __init__(self, options, programs, processes, processors):
        self.options, self.programs, self.processes = options, programs, processes
        self.first, *self.others = processors
        self.quietly = Quiet(processes.cpu_seconds, AGAIN, options.noisy)
        self.journey = Journey(processes.directory, programs["tollgate"])
        _, port = start_origin(processes, programs["fixed_origin"], on=self.on_load)
        self.origin = f"127.0.0.1:{port}"

    def on_gateway(self, command):
        return pinned([self.first], command)

    def on_load(self, command):
        return pinned(self.others, command)

    def gateway(self, revision, config=None):
        """A gateway with this revision, with Redis unless the configuration has its own, that answers."""
        config = config or {}
        if "redis" not in config:
            redis = RedisServer(self.processes, on=self.on_load)
            config = {"redis": {"urls": [f"redis://127.0.0.1:{redis.port}"]}, **config}
        config = {**SHARED, **config}
        gateway = Gateway(self.processes, self.programs["tollgate"], revision, config, on=self.on_gateway)
        gateway.wait_for_redis()
        return gateway

    def paced(self, target, rate, seconds):
        """So many requests per second for so long; what pace reports."""
        return json.loads(self.ask(self.pace(target, rate, seconds), seconds))

    def pace(self, target, rate, seconds, *more):
        command = [self.programs["pace"], "--target", target, "--requests", self.journey.requests, "--rate", rate]
        command += ["--count", max(1, int(rate * seconds)), "--connections", CONNECTIONS, *more]
        return self.on_load(command)

    def costed(self, gateway, rate, seconds):
        """The same, with the share of one core that the gateway took."""
        os.truncate(gateway.access_log, 0)
        cpu = cpu_seconds(gateway.process)
        report = self.paced(f"127.0.0.1:{gateway.port}", rate, seconds)
        report["cpu_percent"] = (cpu_seconds(gateway.process) - cpu) / report["seconds"] * 100
        report["per_second"] = report["requests"] / report["seconds"]
        report["statuses"] = {status: took["count"] for status, took in report["latency_us"].items()}
        return report

    def saturated(self, gateway, seconds):
        """Requests per second as fast as it can."""
        script = os.path.join(os.path.dirname(__file__), os.pardir, "compare", "requests.lua")
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{gateway.port}"]
        os.truncate(gateway.access_log, 0)
        output = self.ask(self.on_load([*command, "--", self.journey.requests]), seconds)
        result = json.loads(re.search(r"^RESULT (.*)$", output, re.MULTILINE).group(1))
        if result["failed"]:
            raise Failed(f"requests failed; this measures nothing\n{output}{''.join(gateway.refused())}")
        return result["requests"] / result["seconds"]

    def ask(self, command, seconds):
        command = [str(part) for part in command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * seconds + 60, check=False)
        if done.returncode != 0:
            raise Failed(f"{command[3]}: {done.stdout}{done.stderr}")
        return done.stdout
