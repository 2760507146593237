"""What is computed of a run, against what it has to be: python3 -m unittest discover -s loadtest"""

import collections
import pathlib
import random
import tempfile
import types
import unittest
import xml.etree.ElementTree

from harness import judge, plan
from harness.bench import Done
from harness.generators import Sent
from harness.latencies import Latencies
from harness.picture import Line, Panel, draw
from harness.target import is_loopback
from harness.trend import closed_knee, growth, open_knee, slope

SCENARIOS = sorted((pathlib.Path(__file__).resolve().parent / "scenarios").glob("*.toml"))


class LatenciesTest(unittest.TestCase):
    def test_a_quantile_is_that_of_the_sorted_times_within_three_percent(self):
        dice = random.Random(1)
        times = [int(10 ** dice.uniform(0, 7)) for _ in range(5000)]
        latencies = Latencies()
        for each in times:
            latencies.add(each)
        for part in [0.01, 0.5, 0.95, 0.99, 0.999, 1]:
            exact = sorted(times)[max(0, round(part * len(times)) - 1)]
            self.assertLessEqual(abs(latencies.quantile(part) - exact), 0.03 * exact + 1)

    def test_two_halves_add_up_to_the_whole_which_their_quantiles_do_not(self):
        whole, first, second = Latencies(), Latencies(), Latencies()
        for number in range(1000):
            whole.add(number * number)
            (first if number < 900 else second).add(number * number)
        first.merge(second)
        self.assertEqual(first.counts, whole.counts)

    def test_of_nothing_there_is_no_quantile(self):
        self.assertIsNone(Latencies().quantile(0.5))


class TrendTest(unittest.TestCase):
    def test_wild_values_do_not_move_a_slope(self):
        dice = random.Random(2)
        points = [(at, 3.0 * at + dice.uniform(-5, 5)) for at in range(400)]
        for number in range(0, 400, 13):
            points[number] = (number, 100_000)
        self.assertAlmostEqual(slope(points), 3.0, delta=0.05)

    def test_a_leak_is_growth_and_a_warm_up_is_not(self):
        warm = [(at, min(at, 100) * 1000) for at in range(600)]
        self.assertEqual(growth(warm)[0], 0)
        leak = [(at, 50_000_000 + at * 10_000) for at in range(600)]
        self.assertAlmostEqual(growth(leak)[0], 10_000 * 399, delta=1)

    def test_of_two_points_nothing_is_said(self):
        self.assertIsNone(slope([(0, 1), (1, 2)]))

    def test_the_knee_is_the_last_step_before_two_misses_and_one_miss_is_none(self):
        rates = range(1000, 8000, 1000)
        self.assertEqual(open_knee([(rate, rate < 5000) for rate in rates]), (4000, True))
        self.assertEqual(open_knee([(rate, rate not in (2000, 5000, 6000)) for rate in rates]), (4000, True))
        self.assertEqual(open_knee([(rate, True) for rate in rates]), (7000, False))
        self.assertEqual(open_knee([(1000, False), (1500, False)]), (None, True))

    def test_the_knee_of_a_closed_loop_is_where_more_connections_only_wait(self):
        curve = [(1, 2000), (2, 4000), (4, 7800), (8, 9700), (16, 10_000), (32, 9900)]
        self.assertEqual(closed_knee(curve), (8, 9700))
        self.assertIsNone(closed_knee([]))


class PlanTest(unittest.TestCase):
    def test_every_scenario_can_be_read_and_planned_at_every_length(self):
        self.assertGreaterEqual(len(SCENARIOS), 12)
        for path in SCENARIOS:
            scenario = plan.read(path)
            for scale in [1, 0.1, 0.0001]:
                phases = drained(scenario.plan(scale))
                self.assertTrue(phases, path)
                for phase in phases:
                    self.assertGreaterEqual(phase.seconds(), plan.PHASE_LEAST)
                    self.assertTrue(all(each.seconds >= 1 for each in phase.slices))
                if scale == 1 and not scenario.steps:
                    self.assertEqual(sum(phase.seconds() for phase in phases), scenario.seconds())

    def test_a_ramp_climbs_evenly_and_never_beyond_its_ends(self):
        spike = plan.read(next(path for path in SCENARIOS if path.stem == "spike"))
        up = next(phase for phase in spike.plan() if phase.name == "up")
        rates = [each.rate for each in up.slices]
        self.assertEqual(rates, sorted(rates))
        self.assertTrue(1000 < rates[0] and rates[-1] < 5000)
        self.assertAlmostEqual(up.rate(), 3000)

    def test_a_search_goes_on_until_two_steps_miss(self):
        stress = plan.read(next(path for path in SCENARIOS if path.stem == "stress"))
        offered = [phase.rate() for phase in drained(stress.plan(), holds=lambda phase: phase.rate() <= 20_000)]
        self.assertEqual(offered[:3], [1000, 1500, 2000])
        self.assertEqual(sum(rate > 20_000 for rate in offered), 2)
        self.assertLessEqual(max(drained(stress.plan()), key=plan.Phase.rate).rate(), plan.RATE_MOST)

    def test_what_a_file_says_wrong_is_named(self):
        for text, said in [
            ("[[phase]]\nname='a'\nseconds=1", "needs rate"),
            ("generator='ab'", "needs either"),
            ("[[phase]]\nname='a'\nseconds=1\nrate=1\n[targets]\np98_ms=1", "p98_ms"),
            ("colour=1", "colour"),
            ("[steps]\nseconds=1\nfrom=1\nto=2\nby=1\nconnections=[1]", "either from"),
        ]:
            with tempfile.TemporaryDirectory() as directory:
                path = pathlib.Path(directory) / "wrong.toml"
                path.write_text(text)
                with self.assertRaises(plan.Wrong) as raised:
                    plan.read(path)
                self.assertIn(said, str(raised.exception))
                self.assertIn("wrong.toml", str(raised.exception))


class JudgeTest(unittest.TestCase):
    def test_the_worst_phase_decides(self):
        verdicts, _ = judged({"p99_ms": 100, "kept": 0.99}, [phase("good", 1000, 1000, 5), phase("bad", 1000, 900, 300)])
        self.assertEqual([(each["target"], each["holds"], each["where"]) for each in verdicts],
                         [("p99_ms", False, "bad"), ("kept", False, "bad")])  # fmt: skip

    def test_nothing_answered_meets_no_target(self):
        verdicts, _ = judged({"p50_ms": 100, "failed": 0.001, "kept": 0.9}, [phase("dead", 1000, 0, 1)])
        self.assertFalse(any(each["holds"] for each in verdicts))

    def test_a_leak_of_memory_fails_and_noise_does_not(self):
        for per_second, holds in [(0, True), (200_000, False)]:
            samples = [sample(at, memory=60 << 20, more=at * per_second + (at % 7) * 30_000) for at in range(120)]
            verdicts, _ = judged({"memory_growth": 0.05}, [phase("steady", 1000, 1000, 1)], samples)
            self.assertEqual([each["holds"] for each in verdicts], [holds])

    def test_descriptors_that_stay_open_fail(self):
        for after, holds in [(25, True), (60, False)]:
            result = {"before": 20, "most": 300, "after": after, "stay": 8}
            verdicts, _ = judged({"descriptor_growth": 0.05}, [phase("steady", 1000, 1000, 1)], [], result)
            self.assertEqual(verdicts[-1]["holds"], holds)

    def test_a_generator_that_is_full_does_not_make_a_knee_of_the_gateway(self):
        for cores, load, others, found, says in [
            (0.98, 1.0, 0.0, True, "gateway's"),
            (0.4, 1.0, 0.0, False, "can do more"),
            (0.4, 1.0, 0.5, False, "other programs"),
        ]:
            steps = [phase(f"{rate}/s", rate, rate, 1 if rate < 3000 else 900, begins=at, step=True)
                     for at, rate in enumerate([1000, 2000, 3000, 4000])]  # fmt: skip
            samples = [sample(at + 0.5, cores=cores, load=load, others=others) for at in range(5)]
            verdicts, knee = judged({"p99_ms": 250, "kept": 0.95, "knee": 1500}, steps, samples, search=True)
            self.assertEqual((knee["rate"], knee["found"]), (2000, found))
            self.assertIn(says, knee["says"])
            self.assertEqual([(each["target"], each["holds"]) for each in verdicts], [("knee", True)])


class PictureTest(unittest.TestCase):
    def test_it_is_well_formed_whatever_was_measured(self):
        values = [0, None, 3, 1e6, 0.004]
        for points in [[], [(0, 1)], list(enumerate(values))]:
            panels = [
                Panel("A <b> & c", "ms", [Line("p50", points, 0, target=50)], logarithmic=True),
                Panel("B", "per second", [Line("due", points, 3, steps=True)]),
            ]
            drawn = draw("Title & <more>", "sub", False, panels, 5, [(0, "one"), (2.5, "two")])
            root = xml.etree.ElementTree.fromstring(drawn)
            self.assertTrue(root.tag.endswith("svg"))
            self.assertNotRegex(drawn, r'"-?(nan|inf)')
            texts = [element.text for element in root.iter() if element.tag.endswith("text")]
            self.assertIn("Title & <more>", texts)
            self.assertEqual("ms" in " ".join(texts), bool(points))

    def test_it_has_colours_for_light_and_dark(self):
        self.assertIn("prefers-color-scheme: dark", draw("t", "s", True, [], 1))


class TargetTest(unittest.TestCase):
    def test_only_this_machine_is_loaded(self):
        self.assertTrue(all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "localhost", "::1"])))
        self.assertFalse(any(map(is_loopback, ["10.0.0.1", "example.com", "0.0.0.0", "", None])))


def drained(phases, holds=lambda phase: True):
    """Every phase of a plan whose steps hold as told."""
    found, answer = [], None
    while True:
        try:
            found.append(phases.send(answer))
        except StopIteration:
            return found
        answer = holds(found[-1])


def phase(name, offered, answered, millis, begins=0, step=False):
    done = Done(plan.Phase(name, [plan.Slice(name, 1, offered, 10)], step), begins)
    sent = Sent()
    sent.offered, sent.answered = offered, answered
    sent.failures = collections.Counter({"no answer": offered - answered} if offered > answered else {})
    if answered:
        sent.latencies.add(millis * 1000, answered)
    done.take(sent)
    return done


def sample(at, memory=1 << 20, more=0, cores=0.1, load=0.1, others=0.0):
    return {"at": at, "gateway_cores": cores, "load_busy": load, "others": others, "memory": memory + more,
            "descriptors": 20, "rate": None}  # fmt: skip


def judged(targets, phases, samples=(), descriptors=None, search=False):
    scenario = types.SimpleNamespace(targets=targets, steps={} if search else None, generator="oha")
    result = {"phases": phases, "samples": list(samples), "descriptors": descriptors}
    return judge.judge(scenario, result, 1 << 34, 1)


if __name__ == "__main__":
    unittest.main()
