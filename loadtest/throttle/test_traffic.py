"""What is computed, against the plainest way to compute it: python3 -m unittest discover loadtest/throttle"""

import random
import unittest

from store import round_trips
from traffic import Traffic, max_excess


class TrafficTest(unittest.TestCase):
    def test_the_greatest_excess_is_that_of_trying_every_interval(self):
        dice = random.Random(1)
        for _ in range(300):
            spans = []
            for _ in range(dice.randint(1, 12)):
                begin = dice.random()
                spans.append((begin, begin + dice.random() * 0.3))
            rate = dice.choice([0, 1, 5, 20])
            plain = max(
                sum(1 for begin, end in spans if begin >= since and end <= until) - rate * (until - since)
                for since, _ in spans
                for _, until in spans
                if until >= since
            )
            self.assertAlmostEqual(max_excess(spans, rate), max(0.0, plain))

    def test_who_was_sent_in_one_window_and_answered_in_the_next_counts_for_neither(self):
        traffic = Traffic.__new__(Traffic)
        second = 1_000_000
        traffic.answers = [
            (0, 5000, 5000, 5010, 200),
            (0, 6000, 6000, 6010, 429),
            (0, second - 9000, second - 9000, second + 9000, 200),
            (0, second + 9000, second + 9000, second + 9010, 200),
        ]
        first, last = traffic.windows(1, 2)
        self.assertEqual((first["offered"], first["admitted"], first["either"]), (3, 1, 1))
        self.assertEqual((last["offered"], last["admitted"], last["either"]), (1, 1, 0))
        self.assertEqual((first["of_limit"], first["of_possible"]), (0.5, 1.0))

    def test_what_scripts_do_inside_redis_is_no_round_trip(self):
        self.assertEqual(round_trips({"evalsha": 5, "get": 5, "set": 3, "time": 5}), 5)
        self.assertEqual(round_trips({"incrby": 5, "pexpireat": 1, "decrby": 2}), 8)


if __name__ == "__main__":
    unittest.main()
