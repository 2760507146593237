"""Everything that is started for the measurement: Redis, the origin, gateways. Ended one by one, whatever happens."""

import http.client
import json
import pathlib
import re
import sys
import time

import store

# What other measurements use too is one folder up.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from machine import START_WITHIN, Failed, Processes, cpu_seconds, free_ports, machine_seconds, wait_for_port  # noqa: E402

__all__ = [
    "Failed",
    "Fleet",
    "Gateway",
    "Processes",
    "RedisServer",
    "cpu_seconds",
    "free_ports",
    "machine_seconds",
    "wait_for_port",
]


class RedisServer:
    """A Redis with nothing on disk."""

    def __init__(self, processes):
        self.processes = processes
        (self.port,) = free_ports(1)
        self.start()

    def start(self):
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.processes.directory]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        self.process = self.processes.start(command)
        wait_for_port(self.port, self.process)
        self.store = store.Store(self.port)

    def kill(self):
        self.store.close()
        self.processes.end(self.process)


class Gateway:
    """A gateway of one thread."""

    def __init__(self, process, port, status):
        self.process, self.port, self.status = process, port, status

    def metrics(self):
        """Every sample of /metrics: name with labels → value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except OSError as error:
            log = self.process.log.read_text(errors="replace")
            raise Failed(f"a gateway does not answer on its status port: {error}\n{log}") from error
        finally:
            connection.close()
        lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def memory(self):
        """Bytes of this process in memory."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


class Fleet:
    """Gateways with the same revision, and what is behind them."""

    def __init__(self, processes, binaries, count, apis, throttle, redis_port=None, server=None):
        self.processes, self.count = processes, count
        origin, *ports = free_ports(1 + 2 * count)
        self.origin = processes.start([binaries["fixed_origin"], f"127.0.0.1:{origin}"])
        wait_for_port(origin, self.origin)
        revision = {
            "version": 1,
            "upstreams": [{"name": "origin", "endpoints": [{"address": f"127.0.0.1:{origin}"}]}],
            "apis": [
                {"name": name, "base_path": f"/{name}", "auth": "none", "upstream": "origin", "limits": limits}
                for name, limits in [("warm", []), *apis.items()]
            ],
        }
        path = processes.directory / f"revision-{origin}.yaml"
        path.write_text(json.dumps(revision))
        self.gateways = []
        for number in range(count):
            port, status = ports[2 * number], ports[2 * number + 1]
            config = {
                "gateway": {"id": f"gw-{number}"},
                "server": {"threads": 1, **(server or {})},
                "listeners": [{"address": f"127.0.0.1:{port}"}],
                "status": {"address": f"127.0.0.1:{status}"},
                "revision": {"file": str(path)},
                "throttle": {"instances": count, **throttle},
                "telemetry": {"access_log": {"path": "off"}},
            }
            if redis_port is not None:
                config["redis"] = {"urls": [f"redis://127.0.0.1:{redis_port}"]}
            file = processes.directory / f"tollgate-{port}.yaml"
            file.write_text(json.dumps(config))
            self.gateways.append(Gateway(processes.start([binaries["tollgate"], "run", "--config", file]), port, status))
        for gateway in self.gateways:
            wait_for_port(gateway.port, gateway.process)
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
        for process in [self.origin, *(gateway.process for gateway in self.gateways)]:
            if process is not self.origin and process.poll() is not None:
                raise Failed(f"a gateway has ended by itself\n{process.log.read_text(errors='replace')}")
            self.processes.end(process)


def store_is_up(metrics):
    """Whether a gateway says that it reaches Redis."""
    return any(name.startswith("tollgate_store_up{") and value == 1 for name, value in metrics.items())
