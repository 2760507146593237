"""What every measurement needs: programs that are started and ended for sure, and what they cost."""

import os
import pathlib
import platform
import re
import resource
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
START_WITHIN = 30
GIVEN = set()


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
        return ended_seconds() + sum(map(cpu_seconds, self.running))


def ended_seconds():
    """Processor time of this program, and of all that it started and that has ended."""
    used = [resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


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
    """Ports of 127.0.0.1 that nobody has; different from each other and from those that were given before."""
    sockets = []
    try:
        ports = []
        while len(ports) < count:
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", 0))
            port = sockets[-1].getsockname()[1]
            if port not in GIVEN:
                ports.append(port)
                GIVEN.add(port)
        return ports
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


def descriptors(process):
    """How many files and sockets a process has open; 0 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{process.pid}/fd"))
    except OSError:
        return 0


def busy_seconds(processors):
    """Time in which these processors did anything, for anyone, since the machine started."""
    total = 0
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in processors:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICKS


def pinned(processors, command):
    """The command, kept on these processors."""
    return ["taskset", "-c", ",".join(map(str, processors)), *command]


def description():
    """What was measured on."""
    found = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "processors": os.cpu_count(),
        "model": found.group(1) if found else platform.machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
    }


def commit():
    """What was measured; None outside of a repository."""
    command = ["git", "describe", "--always", "--dirty"]
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None
