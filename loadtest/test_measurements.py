"""What the comparison and the capacity test compute of what they measure."""

import pathlib
import re
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "compare"), str(HERE / "capacity"), str(HERE)]

import faults  # noqa: E402
import idle  # noqa: E402
import table  # noqa: E402
from quiet import TRIES, Quiet  # noqa: E402


def measured(cpu, p50=100, counts=True):
    half = {"p50_us": p50, "p99_us": 10 * p50, "p999_us": 20 * p50, "counts": counts}
    return {"saturation": {"cpu_us_per_request": cpu, "counts": counts}, "half_load": half}


class Comparison(unittest.TestCase):
    def test_a_ratio_is_taken_within_rounds_and_only_where_both_count(self):
        rounds = [
            {"tollgate-whole": measured(22), "bare-pingora": measured(20)},
            {"tollgate-whole": measured(44), "bare-pingora": measured(40)},
            {"tollgate-whole": measured(90), "bare-pingora": measured(10, counts=False)},
        ]
        (verdict,) = table.ratio_verdicts(rounds, ["tollgate-whole", "bare-pingora"])
        self.assertEqual(verdict["rounds"], 2)
        self.assertAlmostEqual(verdict["median"], 1.1)
        self.assertTrue(table.verdict("", [1.1, 1.0, 1.2], 1.10, "times", True)["holds"])
        self.assertFalse(table.verdict("", [1.11], 1.10, "times", True)["holds"])

    def test_what_is_added_is_the_difference_to_the_direct_connection_of_the_same_round(self):
        rounds = [
            {"tollgate-whole": measured(20, p50=150), "direct": {"half_load": measured(0, p50=50)["half_load"]}},
            {"tollgate-whole": measured(20, p50=400), "direct": {"half_load": measured(0, p50=50)["half_load"]}},
        ]
        p50, p99 = table.added_verdicts(rounds, ["tollgate-whole"])
        self.assertEqual((p50["median"], p50["holds"]), (225, False))
        self.assertEqual((p99["median"], p99["holds"]), (2250, False))

    def test_a_variant_that_was_not_measured_has_no_verdict(self):
        self.assertEqual(table.ratio_verdicts([{"tollgate-whole": measured(20)}], ["tollgate-whole"]), [])

    def test_every_place_in_a_template_is_one_that_is_known(self):
        known = {"ORIGIN", "ORIGIN_HOST", "ORIGIN_PORT", "DIRECTORY", "PORT", "RATE", "LOG", "KEYS"}
        known |= {"CREDENTIALS", "APPLICATIONS"}
        templates = list((HERE / "compare" / "proxies").iterdir())
        self.assertTrue(templates)
        for template in templates:
            text = template.read_text()
            self.assertIn("ORIGIN", text, template.name)
            self.assertLessEqual(set(re.findall(r"\{\{(.*?)\}\}", text)), known, template.name)


class Capacity(unittest.TestCase):
    def test_requests_belong_to_the_stretch_in_which_they_were_due(self):
        marks = [("calm", None, 0), ("Redis", "killed", 1), ("calm", None, 2), ("end", None, 3)]
        answers = [(0, due, due, due + took, 200) for due, took in [(500_000, 100), (999_999, 9_000_000), (1_000_000, 50)]]
        answers.append((0, 2_500_000, 2_500_000, 2_500_007, 200))
        found = faults.quantiles(answers, marks)
        self.assertEqual([each["requests"] for each in found], [2, 1, 1])
        self.assertEqual([each["p99_us"] for each in found], [100, 50, 7])

    def test_a_stretch_without_a_request_is_no_measurement(self):
        with self.assertRaises(faults.Failed):
            faults.quantiles([], [("calm", None, 0), ("end", None, 1)])

    def test_an_answer_is_complete_with_its_last_byte(self):
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
        self.assertTrue(idle.complete(answer))
        self.assertFalse(idle.complete(answer[:-1]))
        self.assertFalse(idle.complete(answer[:20]))


class Disturbed(unittest.TestCase):
    def test_a_measurement_is_taken_again_within_bounds(self):
        taken = []

        def measure():
            taken.append(None)
            return {}

        # Whatever the machine did while nothing was ours, ours grew by less: as if others had used it.
        ours = iter(range(0, -1_000_000, -1000))
        result = Quiet(lambda: next(ours), again=100)(measure)
        self.assertFalse(result["counts"])
        self.assertEqual(len(taken), TRIES)
        taken.clear()
        quietly = Quiet(lambda: next(ours), again=1)
        quietly(measure)
        quietly(measure)
        self.assertEqual(len(taken), 3)
        self.assertTrue(Quiet(lambda: next(ours), again=100, noisy=True)(measure)["counts"])


if __name__ == "__main__":
    unittest.main()
