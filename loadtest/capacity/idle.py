"""Connections on which nothing happens: what each of them takes."""

import pathlib
import resource
import selectors
import socket
import time

from journey import two_limits
from machine import Failed, descriptors, memory

CONNECTIONS = 10_000
KIB = 24
# Descriptors that this program and the gateway need for everything else.
SPARE = 200
AT_A_TIME = 50
WITHIN = 60


def idle(bench):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE
    count = min(1000 if bench.options.quick else CONNECTIONS, most)
    config = {
        "server": {
            "threads": 1,
            "limits": {"connections": count + SPARE, "connections_per_address": count + SPARE},
            # None of them is closed for being idle.
            "timeouts": {"header": "10m", "idle": "10m"},
        }
    }
    gateway = bench.gateway(bench.journey.revision(bench.origin, two_limits()), config)
    # What a process needs once is not counted for the connections.
    bench.paced(f"127.0.0.1:{gateway.port}", 500, 2)
    time.sleep(1)
    start = memory(gateway.process), descriptors(gateway.process), kernel()
    clients = []
    try:
        for _ in range(count):
            clients.append(socket.create_connection(("127.0.0.1", gateway.port), timeout=WITHIN))
        wait_for(lambda: descriptors(gateway.process) >= start[1] + count, "accept them")
        time.sleep(1)
        opened = memory(gateway.process), kernel()
        key, path = bench.journey.first()
        request = f"GET {path} HTTP/1.1\r\nHost: gateway\r\nX-API-Key: {key}\r\n\r\n".encode()
        for begin in range(0, count, AT_A_TIME):
            ask(clients[begin : begin + AT_A_TIME], request)
        time.sleep(1)
        used = memory(gateway.process), kernel()
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: descriptors(gateway.process) <= start[1] + SPARE, "close them")
    time.sleep(1)
    gone = memory(gateway.process)
    more = {
        "connections": count,
        "memory": {"start": start[0], "opened": opened[0], "used": used[0], "closed": gone},
        "kernel_bytes_each": {
            "opened": (opened[1] - start[2]) / 2 / count,
            "used": (used[1] - start[2]) / 2 / count,
        },
    }
    for when, now in [("before a first request", opened[0]), ("after one request each", used[0])]:
        each = (now - start[0]) / count / 1024
        yield {
            "what": f"an idle connection {when} ({count:,} of them)",
            "measured": each,
            "at_most": KIB,
            "unit": "KiB",
            "digits": 1,
            "holds": each <= KIB,
            **more,
        }


def ask(clients, request):
    """One request on each, at the same time."""
    selector = selectors.DefaultSelector()
    for client in clients:
        client.sendall(request)
        selector.register(client, selectors.EVENT_READ, bytearray())
    waiting, until = len(clients), time.monotonic() + WITHIN
    while waiting:
        ready = selector.select(timeout=max(0, until - time.monotonic()))
        if not ready:
            raise Failed(f"{waiting} connections get no answer")
        for chosen, _ in ready:
            piece = chosen.fileobj.recv(65536)
            chosen.data.extend(piece)
            if not piece or not chosen.data.startswith(b"HTTP/1.1 200 "[: len(chosen.data)]):
                raise Failed(f"a connection was closed, or refused: {bytes(chosen.data[:200])!r}")
            if complete(chosen.data):
                selector.unregister(chosen.fileobj)
                waiting -= 1
    selector.close()


def complete(answer):
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and bool(lengths) and len(body) >= int(lengths[0])


def kernel():
    """Bytes of the kernel's own objects and of what waits in sockets, of the whole machine: half of what connections over
    loopback take of them is the client's."""
    lines = [line.split() for line in pathlib.Path("/proc/meminfo").read_text().splitlines()]
    slab = next(int(fields[1]) * 1024 for fields in lines if fields[0] == "Slab:")
    tcp = next(line for line in pathlib.Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return slab + int(tcp.split()[-1]) * resource.getpagesize()


def wait_for(holds, what):
    until = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > until:
            raise Failed(f"the gateway does not {what}")
        time.sleep(0.05)
