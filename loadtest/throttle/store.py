"""What a Redis tells about itself."""

import socket

# Commands that belong to connecting and looking, and not to the trade in tickets.
NO_TRADE = {"auth", "client", "cluster", "command", "config", "dbsize", "flushall", "hello", "info", "keys", "ping", "role"}
# Commands that scripts run inside Redis: no round trips. Tickets need none of them outside of a script (TIME, once in five
# seconds, is not worth telling apart).
IN_SCRIPTS = {"get", "set", "time", "pexpireat"}


class Store:
    """A connection to it."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def ask(self, command):
        """Sends a command without spaces in its arguments; its answer as text or number."""
        self.socket.sendall(command.encode() + b"\r\n")
        line = self.file.readline().decode().rstrip("\r\n")
        kind, rest = line[:1], line[1:]
        if kind == "$":
            return self.file.read(int(rest) + 2)[:-2].decode()
        if kind == ":":
            return int(rest)
        if kind == "+":
            return rest
        raise OSError(f"Redis answers {command!r} with {line!r}")

    def info(self, section):
        lines = [line.split(":", 1) for line in self.ask(f"INFO {section}").splitlines() if ":" in line]
        return dict(lines)

    def commands(self):
        """How often each command of the trade was called since the start, by clients or by scripts."""
        calls = {}
        for name, figures in self.info("commandstats").items():
            name = name.removeprefix("cmdstat_").split("|")[0]
            if name not in NO_TRADE:
                calls[name] = calls.get(name, 0) + int(figures.split(",")[0].removeprefix("calls="))
        return calls

    def cpu_seconds(self):
        cpu = self.info("cpu")
        return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

    def used_memory(self):
        return int(self.info("memory")["used_memory"])


def round_trips(commands):
    """How many of these were sent by clients."""
    scripts = commands.get("evalsha", 0) + commands.get("eval", 0)
    return sum(calls for name, calls in commands.items() if not (scripts and name in IN_SCRIPTS))
