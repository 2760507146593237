"""Everything that is started for the measurement: Redis, the origin, gateways. Ended one by one, whatever happens."""

import http.client
import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import time

import store

TICKS = os.sysconf("SC_CLK_TCK")
START_WITHIN = 30


class Failed(Exception):
    """The measurement can not go on; the text says why."""


class Processes:
    """What was started, by its own handle."""

    def __init__(self, directory):
        self.directory = directory
        self.running = []
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in list(self.running):
            self.end(process)

    def start(self, command, **more):
        """Starts a program; its output goes to a file that `log_of` finds."""
        self.number += 1
        log = self.directory / f"{self.number:03}-{pathlib.Path(command[0]).name}.log"
        with open(log, "wb") as file:
            options = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL, **more}
            process = subprocess.Popen([str(part) for part in command], **options)
        process.log = log
        self.running.append(process)
        return process

    def end(self, process):
        """Ends it as a crash would, and waits for it."""
        if process in self.running:
            self.running.remove(process)
        process.kill()
        process.wait()

    def cpu_seconds(self):
        """Processor time of all that was started, and of this program."""
        used = [resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)]
        ended = sum(each.ru_utime + each.ru_stime for each in used)
        return ended + sum(map(cpu_seconds, self.running))


def cpu_seconds(process):
    """User and system time of all threads of a process since it started; 0 if it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_seconds():
    """Time in which the processors of this machine did anything, for anyone, since it started."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS


def free_ports(count):
    """Ports of 127.0.0.1 that nobody has; different from each other."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for_port(port, process):
    """Waits until somebody listens there."""
    until = time.monotonic() + START_WITHIN
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Failed(f"{process.args[0]} does not listen on port {port}\n{process.log.read_text(errors='replace')}")


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
