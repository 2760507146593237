"""The programs that measurements start: a gateway, the origin behind it, Redis."""

import http.client
import itertools
import json
import os
import shutil
import subprocess
import sys
import time

from machine import ROOT, START_WITHIN, Failed, free_ports, memory, wait_for_port

EXAMPLES = {"fixed_origin", "bare_pingora", "pace", "gatewaysim"}


def need(who, *tools):
    """Ends with a hint if a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            sys.exit(f"{who}: {tool} is missing; on Debian run: sh scripts/install-tools.sh loadtest")


def binaries(who, *names, build=True, directory=None):
    """Builds programs with the release profile, unless told where they are or that they are there; their paths by name."""
    if build and directory is None:
        need(who, "cargo")
        command = ["cargo", "build", "--release", "--locked", "--bin", "tollgate"]
        for name in sorted(EXAMPLES & set(names)):
            command += ["--example", name]
        subprocess.run(command, cwd=ROOT, check=True)
    if directory is None:
        directory = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    found = {}
    for name in names:
        candidates = [directory / name, directory / "examples" / name]
        found[name] = next((path for path in candidates if path.is_file()), None)
        if found[name] is None:
            sys.exit(f"{who}: {directory}/{name} is missing")
    return found


def start_origin(processes, binary, *more, address="127.0.0.1", on=None):
    """An origin on a free port; the process and the port. `on` pins it: a function from command to command."""
    (port,) = free_ports(1)
    command = [binary, f"{address}:{port}", *more]
    process = processes.start(on(command) if on else command)
    wait_for_port(port, process)
    return process, port


class Gateway:
    """A gateway with a file for its revision, which may be a text. `config` says more than where it listens; whole
    sections are replaced."""

    def __init__(self, processes, binary, revision, config=None, on=None, wait=True):
        self.processes = processes
        self.port, self.status = free_ports(2)
        stem = processes.directory / f"gateway-{self.port}"
        self.access_log = stem.with_suffix(".log")
        written = {
            "gateway": {"id": f"gw-{self.port}"},
            "server": {"threads": 1},
            "listeners": [{"address": f"127.0.0.1:{self.port}"}],
            "status": {"address": f"127.0.0.1:{self.status}"},
            "revision": {"file": str(stem.with_suffix(".revision.yaml"))},
            "telemetry": {"access_log": {"path": str(self.access_log)}},
            **(config or {}),
        }
        # JSON is YAML.
        text = revision if isinstance(revision, str) else json.dumps(revision)
        stem.with_suffix(".revision.yaml").write_text(text)
        stem.with_suffix(".yaml").write_text(json.dumps(written))
        command = [binary, "run", "--config", stem.with_suffix(".yaml")]
        self.process = processes.start(on(command) if on else command)
        if wait:
            self.wait()

    def wait(self):
        """Until it listens."""
        wait_for_port(self.port, self.process)

    def wait_for_redis(self):
        """Until it says that it reaches Redis."""
        until = time.monotonic() + START_WITHIN
        while not self.reaches_redis():
            if time.monotonic() > until or self.process.poll() is not None:
                raise Failed(f"a gateway does not reach Redis\n{self.process.log.read_text(errors='replace')}")
            time.sleep(0.05)

    def reaches_redis(self):
        try:
            samples = metrics(self.status)
        except OSError:
            # It does not listen for this yet.
            return False
        return any(name.startswith("tollgate_store_up{") and up for name, up in samples.items())

    def metrics(self):
        """Every sample of /metrics: name with labels → value."""
        try:
            return metrics(self.status)
        except OSError as error:
            log = self.process.log.read_text(errors="replace")
            raise Failed(f"a gateway does not answer on its status port: {error}\n{log}") from error

    def refused(self, most=5):
        """Lines of the access log of what was not answered with 200, at most so many."""
        with open(self.access_log, encoding="utf-8") as lines:
            return list(itertools.islice((line for line in lines if '"status":200,' not in line), most))

    def memory(self):
        """Bytes of this process in memory."""
        return memory(self.process)

    def end(self):
        """As a crash would; what it had to say first if it has ended by itself."""
        if self.process.poll() is not None:
            raise Failed(f"a gateway has ended by itself\n{self.process.log.read_text(errors='replace')}")
        self.processes.end(self.process)


class RedisServer:
    """A Redis with nothing on disk."""

    def __init__(self, processes, on=None):
        self.processes, self.on = processes, on
        (self.port,) = free_ports(1)
        self.start()

    def start(self):
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.processes.directory]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        self.process = self.processes.start(self.on(command) if self.on else command)
        wait_for_port(self.port, self.process)

    def kill(self):
        self.processes.end(self.process)


def metrics(status, host="127.0.0.1"):
    """Every sample of the /metrics behind a status port: name with labels → value."""
    connection = http.client.HTTPConnection(host, status, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def new_key(binary, application):
    """A key of an application: its text, and the record that a revision takes."""
    command = [str(binary), "key", "new", "--application", application, "--output", "json"]
    made = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=10).stdout)
    return made["key"], {name: made["record"][name] for name in ["id", "sha256", "type"]}
