"""What the measurements are made of: python3 -m unittest discover loadtest/caching"""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import bench  # noqa: E402
import working_set  # noqa: E402


class WorkingSet(unittest.TestCase):
    def test_is_as_large_as_was_asked_for_and_hardly_larger(self):
        total = 4 * working_set.MIB
        sizes = working_set.working_set(total)
        self.assertGreaterEqual(sum(sizes), total)
        self.assertLess(sum(sizes) - sizes[-1], total)

    def test_has_small_and_large_bodies_and_is_the_same_every_time(self):
        sizes = working_set.working_set(4 * working_set.MIB)
        self.assertEqual(sizes, working_set.working_set(4 * working_set.MIB))
        self.assertGreaterEqual(min(sizes), 200)
        self.assertLessEqual(max(sizes), 64 * 1024)
        self.assertLess(min(sizes), 400)
        self.assertGreater(max(sizes), 32 * 1024)


class Hits(unittest.TestCase):
    def test_are_those_from_memory_in_whatever_order_labels_come(self):
        self.assertTrue(bench.is_hit('tollgate_cache_requests_total{result="hit",tier="memory"}'))
        self.assertTrue(bench.is_hit('tollgate_cache_requests_total{tier="memory",result="hit"}'))
        self.assertFalse(bench.is_hit('tollgate_cache_requests_total{result="hit",tier="redis"}'))
        self.assertFalse(bench.is_hit('tollgate_cache_requests_total{result="miss",tier="none"}'))
