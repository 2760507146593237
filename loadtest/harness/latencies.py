"""Times of many requests in little memory: counts in buckets of 3 % width."""

import collections

# 32 buckets from each power of two to the next.
BITS = 5


class Latencies:
    """Times in microseconds. Two of them add up to one, which percentiles do not."""

    def __init__(self):
        self.counts = collections.Counter()

    def add(self, micros, times=1):
        self.counts[bucket(max(0, int(micros)))] += times

    def merge(self, other):
        self.counts.update(other.counts)

    def __len__(self):
        return sum(self.counts.values())

    def quantile(self, part):
        """The time in microseconds below which this part of them lies, within 3 %; None without any."""
        total = len(self)
        if not total:
            return None
        below, wanted = 0, part * total
        for index in sorted(self.counts):
            below += self.counts[index]
            if below >= wanted:
                return middle(index)
        return middle(max(self.counts))

    def milliseconds(self, part):
        micros = self.quantile(part)
        return None if micros is None else micros / 1000


def bucket(micros):
    shift = max(0, micros.bit_length() - BITS - 1)
    return (shift << BITS) + (micros >> shift)


def middle(index):
    """The middle of a bucket's values."""
    if index < 2 << BITS:
        return float(index)
    shift = (index >> BITS) - 1
    lowest = ((index & ((1 << BITS) - 1)) + (1 << BITS)) << shift
    return lowest + ((1 << shift) - 1) / 2
