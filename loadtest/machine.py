"""What every measurement needs: programs that are started and ended for sure, and what they cost."""

import os
import pathlib
import resource
import socket
import subprocess
import time

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


def memory(process, which="VmRSS"):
    """Bytes of a process in memory; `VmHWM` is the most that it ever had."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(which + ":"))
