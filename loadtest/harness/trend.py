"""What many noisy values say: the slope of a line through them, and the knee of a curve."""

import statistics

# More points than this say nothing more about a slope, but cost the square of their number.
POINTS = 300


def slope(points):
    """The median slope of all pairs (Theil and Sen): a few wild values do not move it. None with less than three points."""
    points = thinned(points, POINTS)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(points)
        for later in points[number + 1 :]
        if later[0] != earlier[0]
    ]
    return statistics.median(slopes) if len(points) >= 3 and slopes else None


def growth(points, skip=1 / 3):
    """How much values grow from the end of the warm-up to the end, by their slope: (growth, slope, middle value). A process
    that starts takes memory for its caches; the first part is not asked. None where there is too little to say."""
    settled = points[int(len(points) * skip) :]
    found = slope(settled)
    if found is None:
        return None
    took = settled[-1][0] - settled[0][0]
    return found * took, found, statistics.median(value for _, value in settled)


def open_knee(steps):
    """Steps of rising rate, each (rate, holds): the last that held before two in a row did not, or before the end came with
    one that did not. (rate, found): not found means that the last step still held. A single step that fails in between may
    be anybody's fault, so it is no knee."""
    last, missed = None, 0
    for rate, holds in steps:
        if holds:
            last, missed = rate, 0
        else:
            missed += 1
            if missed == 2:
                break
    return last, missed > 0


def closed_knee(steps, part=0.95):
    """Steps of rising concurrency, each (connections, throughput): the fewest connections that reach this part of the
    greatest throughput. More of them only wait longer. None without steps."""
    if not steps:
        return None
    greatest = max(throughput for _, throughput in steps)
    return next(step for step in steps if step[1] >= part * greatest)


def thinned(points, most):
    """At most so many of them, evenly spread, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(number * (len(points) - 1) / (most - 1))] for number in range(most)]
