"""A picture of a run as SVG: throughput, latency, processors, memory over time. Plain text, no libraries; readable on light
and dark ground."""

import math
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 960, 84, 190
PANEL, GAP, TOP, BOTTOM = 170, 52, 92, 46

STYLE = """
  svg { font: 13px system-ui, sans-serif; background: #ffffff; }
  text { fill: #24292f; } .small { font-size: 11px; fill: #57606a; } .title { font-size: 17px; font-weight: 600; }
  .grid { stroke: #d8dee4; stroke-width: 1; } .frame { fill: none; stroke: #8c959f; }
  .phase { stroke: #8c959f; stroke-dasharray: 2 3; } .target { stroke-dasharray: 6 4; opacity: .75; }
  .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .dot { stroke: none; }
  .c0 { stroke: #0969da; } .c1 { stroke: #cf222e; } .c2 { stroke: #9a6700; } .c3 { stroke: #6e7781; }
  .f0 { fill: #0969da; } .f1 { fill: #cf222e; } .f2 { fill: #9a6700; } .f3 { fill: #6e7781; }
  .good { fill: #1a7f37; } .bad { fill: #cf222e; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; } text { fill: #e6edf3; } .small { fill: #9198a1; }
    .grid { stroke: #2a313c; } .frame, .phase { stroke: #656c76; }
    .c0 { stroke: #58a6ff; } .c1 { stroke: #ff7b72; } .c2 { stroke: #e3b341; } .c3 { stroke: #9198a1; }
    .f0 { fill: #58a6ff; } .f1 { fill: #ff7b72; } .f2 { fill: #e3b341; } .f3 { fill: #9198a1; }
    .good { fill: #3fb950; } .bad { fill: #ff7b72; }
  }
"""


class Line:
    """Points of one thing over time; a value may be None. `target` is a line across at a bound."""

    def __init__(self, name, points, colour, steps=False, target=None):
        self.name, self.points, self.colour = name, [each for each in points if each[1] is not None], colour
        self.steps, self.target = steps, target


class Panel:
    """Lines that share an axis."""

    def __init__(self, title, unit, lines, logarithmic=False):
        self.title, self.unit, self.logarithmic = title, unit, logarithmic
        self.lines = [line for line in lines if line.points]


def draw(title, subtitle, passed, panels, seconds, phases=()):
    """The whole picture. `phases` are moments with a name."""
    panels = [panel for panel in panels if panel.lines]
    height = TOP + len(panels) * (PANEL + GAP) + BOTTOM - GAP + 14
    seconds = max(seconds, 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        text(LEFT, 28, title, "title"),
        text(WIDTH - RIGHT + 14, 28, "passed" if passed else "failed", f"title {'good' if passed else 'bad'}"),
        text(LEFT, 48, subtitle, "small"),
    ]
    for number, panel in enumerate(panels):
        out += drawn(panel, TOP + number * (PANEL + GAP), seconds, phases if number == 0 else [(at, "") for at, _ in phases])
    bottom = TOP + len(panels) * (PANEL + GAP) - GAP
    for tick in ticks(seconds, 8, (1, 2, 3, 5, 6)):
        out.append(text(x_of(tick, seconds), bottom + 18, clock(tick), "small", "middle"))
    out.append(text(LEFT + (WIDTH - LEFT - RIGHT) / 2, bottom + 38, "time since the load began (min:s)", "small", "middle"))
    return "\n".join([*out, "</svg>", ""])


def drawn(panel, top, seconds, phases):
    values = [value for line in panel.lines for _, value in line.points]
    values += [line.target for line in panel.lines if line.target is not None]
    axis = Logarithmic(values, top) if panel.logarithmic else Linear(values, top)
    right = WIDTH - RIGHT
    out = [text(LEFT, top - 8, f"{panel.title} ({panel.unit})")]
    for value in axis.ticks():
        y = axis.y(value)
        out.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        out.append(text(LEFT - 8, y + 4, number_text(value), "small", "end"))
    out.append(f'<rect class="frame" x="{LEFT}" y="{top}" width="{right - LEFT}" height="{PANEL}"/>')
    free = 0
    for at, name in phases:
        x = x_of(at, seconds)
        out.append(f'<line class="phase" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + PANEL}"/>')
        # Names that would lie on each other are left out.
        if name and x >= free:
            out.append(text(x + 3, top + 12, name, "small"))
            free = x + 8 * len(name) + 6
    for number, line in enumerate(panel.lines):
        if line.target is not None:
            y = axis.y(line.target)
            out.append(f'<line class="target c{line.colour}" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        out.append(path(line, axis, seconds))
        y = top + 14 + 20 * number
        out.append(f'<line class="line c{line.colour}" x1="{right + 14}" y1="{y - 4}" x2="{right + 34}" y2="{y - 4}"/>')
        bound = "" if line.target is None else f" (≤ {number_text(line.target)})"
        out.append(text(right + 40, y, line.name + bound))
    return out


def path(line, axis, seconds):
    if len(line.points) == 1:
        (at, value), = line.points
        return f'<circle class="dot f{line.colour}" cx="{x_of(at, seconds):.1f}" cy="{axis.y(value):.1f}" r="2.5"/>'
    commands, before = [], None
    for at, value in line.points:
        x, y = x_of(min(at, seconds), seconds), axis.y(value)
        if before is None:
            commands.append(f"M{x:.1f} {y:.1f}")
        elif line.steps:
            commands.append(f"H{x:.1f}V{y:.1f}")
        else:
            commands.append(f"L{x:.1f} {y:.1f}")
        before = y
    return f'<path class="line c{line.colour}" d="{"".join(commands)}"/>'


class Linear:
    """From zero up."""

    def __init__(self, values, top):
        self.most = max([*values, 0]) * 1.08 or 1
        self.top = top

    def ticks(self):
        return ticks(self.most, 5, (1, 2, 2.5, 5))

    def y(self, value):
        return self.top + PANEL * (1 - min(max(value, 0), self.most) / self.most)


class Logarithmic:
    """Whole powers of ten that hold everything."""

    def __init__(self, values, top):
        positive = [value for value in values if value > 0] or [1]
        self.low = math.floor(math.log10(min(positive)))
        self.high = max(math.ceil(math.log10(max(positive))), self.low + 1)
        self.top = top

    def ticks(self):
        return [10**power for power in range(self.low, self.high + 1)]

    def y(self, value):
        part = (math.log10(max(value, 10**self.low)) - self.low) / (self.high - self.low)
        return self.top + PANEL * (1 - min(part, 1))


def ticks(most, count, steps):
    """Round values from zero on, about so many."""
    raw = most / count
    power = 10 ** math.floor(math.log10(raw))
    step = next((each * power for each in steps if each * power >= raw), 10 * power)
    return [number * step for number in range(int(most / step) + 1)]


def x_of(at, seconds):
    return LEFT + (WIDTH - LEFT - RIGHT) * max(0, at) / seconds


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def number_text(value):
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def text(x, y, content, kind=None, anchor=None):
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}{anchor}>{escape(content)}</text>'
