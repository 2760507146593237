"""Everything that is started for the measurement: Redis, the origin, gateways. Ended one by one, whatever happens."""

import pathlib
import sys
import time

import store

# What other measurements use too is one folder up.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import programs  # noqa: E402
from machine import (  # noqa: E402
    START_WITHIN,
    Failed,
    Processes,
    commit,
    cpu_seconds,
    description,
    free_ports,
    machine_seconds,
    wait_for_port,
)
from programs import Gateway, need  # noqa: E402
from programs import binaries as find  # noqa: E402

__all__ = [
    "Failed",
    "Fleet",
    "Gateway",
    "Processes",
    "RedisServer",
    "commit",
    "cpu_seconds",
    "description",
    "find",
    "free_ports",
    "machine_seconds",
    "need",
    "wait_for_port",
]


class RedisServer(programs.RedisServer):
    """A Redis with nothing on disk, and a connection to look at it."""

    def start(self):
        super().start()
        self.store = store.Store(self.port)

    def kill(self):
        self.store.close()
        super().kill()


class Fleet:
    """Gateways with the same revision, and what is behind them."""

    def __init__(self, processes, binaries, count, apis, throttle, redis_port=None, server=None):
        self.processes, self.count = processes, count
        self.origin, origin = programs.start_origin(processes, binaries["fixed_origin"])
        revision = {
            "version": 1,
            "upstreams": [{"name": "origin", "endpoints": [{"address": f"127.0.0.1:{origin}"}]}],
            "apis": [
                {"name": name, "base_path": f"/{name}", "auth": "none", "upstream": "origin", "limits": limits}
                for name, limits in [("warm", []), *apis.items()]
            ],
        }
        self.gateways = []
        for number in range(count):
            config = {
                "gateway": {"id": f"gw-{number}"},
                "server": {"threads": 1, **(server or {})},
                "throttle": {"instances": count, **throttle},
                "telemetry": {"access_log": {"path": "off"}},
            }
            if redis_port is not None:
                config["redis"] = {"urls": [f"redis://127.0.0.1:{redis_port}"]}
            self.gateways.append(Gateway(processes, binaries["tollgate"], revision, config, wait=False))
        for gateway in self.gateways:
            gateway.wait()
        if redis_port is not None:
            self.wait_until(store_is_up, "reach Redis")

    def wait_until(self, holds, what):
        until = time.monotonic() + START_WITHIN
        for gateway in self.gateways:
            while not holds(gateway.metrics()):
                if time.monotonic() > until:
                    raise Failed(f"a gateway does not {what}\n{gateway.process.log.read_text(errors='replace')}")
                time.sleep(0.05)

    def metrics(self):
        """The metrics of all gateways, added up."""
        total = {}
        for gateway in self.gateways:
            for name, value in gateway.metrics().items():
                total[name] = total.get(name, 0) + value
        return total

    def end(self):
        for gateway in self.gateways:
            gateway.end()
        self.processes.end(self.origin)


def store_is_up(metrics):
    """Whether a gateway says that it reaches Redis."""
    return any(name.startswith("tollgate_store_up{") and value == 1 for name, value in metrics.items())
