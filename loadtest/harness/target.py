"""What is measured: a gateway that is started for it, or one that runs already."""

import ipaddress
import os
import pathlib
import urllib.parse

import programs
from machine import Failed, descriptors, pinned

APIS, ROUTES_PER_API, APPLICATIONS = 20, 50, 100
# Idle connections to the origin are closed after this, so that what stays open after the load is a leak.
UPSTREAM_IDLE = 3
# The access log is cut when it gets longer, in bytes: four hours would fill a disk.
LOG_MOST = 256 << 20


class OwnGateway:
    """A gateway and an origin, on processors of their own. The whole journey of a request: 1,000 routes in 20 APIs, a hashed
    key out of 100, two limits far above the load, metrics, access log (every request, to a file); limits through Redis if
    asked for."""

    def __init__(self, processes, found, gateway_on, load_on, redis=False):
        self.started = processes
        self.origin_process, port = programs.start_origin(
            processes, found["fixed_origin"], on=lambda command: pinned(load_on, command)
        )
        made = [programs.new_key(found["tollgate"], f"app-{number:03}") for number in range(APPLICATIONS)]
        self.keys = [key for key, _ in made]
        config = {"gateway": {"id": "loadtest"}, "server": {"threads": len(gateway_on)}}
        if redis:
            server = programs.RedisServer(processes, on=lambda command: pinned(load_on, command))
            config["redis"] = {"urls": [f"redis://127.0.0.1:{server.port}"]}
        self.gateway = programs.Gateway(
            processes,
            found["tollgate"],
            revision(port, [record for _, record in made]),
            config,
            on=lambda command: pinned(gateway_on, command),
        )
        self.origin = f"http://127.0.0.1:{self.gateway.port}"
        self.what = f"own gateway, {len(gateway_on)} thread(s), {APIS * ROUTES_PER_API:,} routes, key, two limits, access log"
        self.what += ", limits through Redis" if redis else ""

    def path(self, request, dice):
        api, item = dice.randrange(APIS), dice.randrange(10_000)
        return f"/api-{api:03}/items/{item}/bytes/{request.answer}"

    def url(self, request, dice):
        return self.origin + self.path(request, dice)

    def process(self):
        return self.gateway.process

    def metrics(self):
        return self.gateway.metrics()

    def look_after(self):
        """What a long run needs now and then. A gateway that has ended by itself ends the measurement."""
        if self.gateway.process.poll() is not None:
            raise Failed(f"the gateway has ended\n{self.gateway.process.log.read_text(errors='replace')[-4000:]}")
        log = self.gateway.access_log
        # The gateway appends, so what comes next stands at the beginning.
        if log.exists() and log.stat().st_size > LOG_MOST:
            os.truncate(log, 0)


def revision(origin, records):
    """What the gateway serves."""
    apis = [
        {
            "name": f"api-{number:03}",
            "base_path": f"/api-{number:03}/items",
            "auth": ["api_key"],
            "upstream": "origin",
            "routes": [{"path": "/{id}/bytes/{count}"}]
            + [{"path": f"/{{id}}/part-{route:03}"} for route in range(1, ROUTES_PER_API)],
        }
        for number in range(APIS)
    ]
    limits = [{"name": "burst", "rate": "1000000/s"}, {"name": "hour", "rate": "1000000000/h"}]
    subscriptions = [{"api": api["name"], "plan": "plan"} for api in apis]
    return {
        "version": 1,
        "upstreams": [
            {
                "name": "origin",
                "endpoints": [{"address": f"127.0.0.1:{origin}"}],
                "timeouts": {"idle": f"{UPSTREAM_IDLE}s"},
            }
        ],
        "plans": [{"name": "plan", "limits": limits}],
        "apis": apis,
        "applications": [
            {"name": f"app-{number:03}", "subscriptions": subscriptions, "keys": [record]}
            for number, record in enumerate(records)
        ],
    }


class Running:
    """A gateway that somebody else has started, on this machine. `{answer}` in its URL becomes the bytes that a request of
    the scenario wants answered."""

    def __init__(self, url, key=None, status=None, pid=None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not is_loopback(parts.hostname):
            raise Failed(f"{url}: only http:// on this machine (127.0.0.1) is measured; load on others is an attack")
        self.origin, self.rest = f"http://{parts.netloc}", url.removeprefix(f"http://{parts.netloc}") or "/"
        self.port, self.status = parts.port or 80, status
        self.keys = [key] if key else []
        self.given, self.found = pid, None
        self.what = f"running gateway at {self.origin}"

    def path(self, request, _dice):
        return self.rest.replace("{answer}", str(request.answer))

    def url(self, request, dice):
        return self.origin + self.path(request, dice)

    def process(self):
        """The process that listens there, the youngest if there are several; looked up again when it has gone, as after a
        handoff. None if it can not be seen."""
        if self.found is None or descriptors(self.found) == 0:
            pid = self.given or listener(self.port)
            self.found = None if pid is None else Seen(pid)
        return self.found

    def processors(self):
        """Those that it may use; None if it can not be seen."""
        process = self.process()
        try:
            return None if process is None else sorted(os.sched_getaffinity(process.pid))
        except OSError:
            return None

    def metrics(self):
        return programs.metrics(self.status) if self.status else None

    def look_after(self):
        pass


class Seen:
    """A process that is only looked at."""

    def __init__(self, pid):
        self.pid = pid


def is_loopback(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def listener(port):
    """The youngest process that listens on a TCP port, as far as this user may see."""
    sockets = set()
    for table in ["/proc/net/tcp", "/proc/net/tcp6"]:
        try:
            lines = pathlib.Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            # 0A is LISTEN; the tenth field is the inode.
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(each) in sockets for each in (process / "fd").iterdir()):
                started = int((process / "stat").read_text().rpartition(")")[2].split()[19])
                found.append((started, int(process.name)))
        except OSError:
            continue
    return max(found)[1] if found else None
