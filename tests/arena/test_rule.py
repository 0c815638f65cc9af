"""The rule on made-up numbers: scores by hand, groups, intervals, and the sensitivity."""

import math

import pytest

from arena.made import record
from sampleprop.lab.arena import rule, tables

THREE = ("categorical", "counts", "subset")


def standing(records, name):
    (found,) = [each for each in rule.standings(records) if each.competitor.name == name]
    return found


def test_the_score_is_the_geometric_mean_over_problems_of_variance_times_evaluations():
    found = standing([record("A", dict(zip(THREE, (0.5, 2.0, 0.125), strict=True)))], "A")
    assert found.score == pytest.approx(0.5)
    assert found.by_time == pytest.approx(1.0)  # twice the time of leave-one-out
    assert found.memory == pytest.approx(2.0)
    assert (found.problems, found.rank) == (3, 1)


def test_evaluations_count_as_they_were_used():
    found = standing([record("A", dict.fromkeys(THREE, 1.0), evaluations=4)], "A")
    assert found.score == pytest.approx(0.25)


def test_seeds_and_budgets_of_a_problem_are_averaged_first():
    made = record("A", {"categorical": 0.25}, seeds=(0, 1, 2, 3))
    other = record("A", {"counts": 4.0})
    made.add(other.cells.values(), other.runs[0])
    assert standing([made], "A").score == pytest.approx(1.0)


def test_a_ratio_counts_as_a_hundredth_at_least_and_as_a_hundred_at_most():
    for variance, counted in ((1e-9, 0.01), (1e9, 100.0)):
        made = record("A", dict.fromkeys(THREE, variance), gradient=1e-9)
        assert standing([made], "A").score == pytest.approx(counted)


def test_too_few_problems_have_no_place_and_stay_in_the_table():
    few = record("Few", {"categorical": 0.01, "counts": 0.01})
    many = record("Many", dict.fromkeys(THREE, 2.0))
    found = rule.standings([few, many])
    assert [(each.competitor.name, each.rank) for each in found] == [("Many", 1), ("Few", None)]


def test_the_biased_have_a_group_of_their_own_by_mean_squared_error_at_two_sizes():
    facts = {"unbiased": False}
    made = record("A", dict.fromkeys(THREE, 0.5), facts=facts, bias=0.1, bias_z=20.0)
    found = standing([made, record("B", dict.fromkeys(THREE, 9.0))], "A")
    assert found.competitor.group == "biased"
    expected = [(0.01 + 0.5 * 16 / size) / (16 / size) for size in rule.SIZES]
    assert found.errors == pytest.approx(expected)
    assert found.score == pytest.approx(math.sqrt(expected[0] * expected[1]))
    assert found.rank == 1
    assert found.by_time is None


def test_one_that_claims_no_bias_and_has_one_is_shown_as_such():
    seen = record("Seen", dict.fromkeys(THREE, 0.1), bias=0.3, bias_z=9.0)
    certified = record("Certified", dict.fromkeys(THREE, 0.1))
    certified.certificate = {"ok": False}
    honest = record("Honest", dict.fromkeys(THREE, 0.1))
    honest.certificate = {"ok": None}
    groups = {each.competitor.name: each.competitor.group for each in rule.standings([seen, certified, honest])}
    assert groups == {"Seen": "refuted", "Certified": "refuted", "Honest": "unbiased"}
    assert {row[0] for row in tables.others([seen, certified, honest]).rows} == {"Seen", "Certified"}


def test_a_large_z_among_thousands_of_rows_is_no_bias():
    """|z| above 4 comes once in 30,000 rows by chance; the limit is one in a thousand files of this length."""
    made = record("A", dict.fromkeys(THREE, 0.5), seeds=tuple(range(1000)))
    key = next(iter(made.cells))
    made.cells[key] = made.cells[key].__class__(**{**vars(made.cells[key]), "bias_z": 4.5})
    assert standing([made], "A").competitor.group == "unbiased"


def test_what_is_exact_everywhere_needs_no_order():
    made = record("A", dict.fromkeys(THREE, 1e-20))
    assert standing([made], "A").competitor.group == "exact"
    assert standing([made], "A").rank is None


def test_untrained_and_trained_are_two_rows():
    facts = {"learns": ["coefficient"]}
    made = record("A", dict.fromkeys(THREE, 2.0), facts=facts)
    trained = record("A", dict.fromkeys(THREE, 0.5), facts=facts, trained=True)
    made.add(trained.cells.values(), trained.runs[0])
    names = [each.competitor.name for each in rule.standings([made])]
    assert names == ["A, trained", "A, untrained"]


def test_the_intervals_are_those_of_problems_and_seeds():
    even = record("Even", dict.fromkeys(("categorical", "counts", "subset", "chain", "ranking"), 0.5))
    uneven = record("Uneven", {"categorical": 0.05, "counts": 5.0, "subset": 0.05, "chain": 5.0, "ranking": 0.5})
    found = {each.competitor.name: each for each in rule.standings([even, uneven])}
    assert found["Even"].interval == pytest.approx((0.5, 0.5))
    low, high = found["Uneven"].interval
    # A log ratio of ±log 10 with probability 2/5 each, over five draws: 90 % are within 1.645 · 2.06 / √5.
    assert low == pytest.approx(0.5 * math.exp(-1.645 * 2.06 / math.sqrt(5)), rel=0.35)
    assert high == pytest.approx(0.5 * math.exp(1.645 * 2.06 / math.sqrt(5)), rel=0.35)
    assert found["Uneven"].ranks == (1, 2)


def test_other_rules_order_the_same_names():
    fast = record("Fast", dict.fromkeys(THREE, 0.9), milliseconds=0.5)
    slow = record("Slow", dict.fromkeys(THREE, 0.5), milliseconds=9.0)
    found = rule.alternatives([fast, slow])
    assert found["the rule"] == pytest.approx([0.5, 0.9])  # Slow first
    assert found["variance × time"] == pytest.approx([4.5, 0.45])
    assert all(len(scores) == 2 for scores in found.values())
    assert found["without counts"] == pytest.approx([0.5, 0.9])
    assert rule.spearman(found["the rule"], found["variance × time"]) == pytest.approx(-1.0)


def test_two_sets_of_seeds_agree_or_do_not():
    same = [record(name, dict.fromkeys(THREE, v), seeds=(0, 1)) for name, v in (("A", 0.5), ("B", 1.0), ("C", 3.0))]
    assert rule.agreement(same, (0,), (1,)) == pytest.approx(1.0)
    turned = []
    for name, first, second in (("A", 0.5, 3.0), ("B", 1.0, 1.0), ("C", 3.0, 0.5)):
        made = record(name, dict.fromkeys(THREE, first), seeds=(0,))
        more = record(name, dict.fromkeys(THREE, second), seeds=(1,))
        made.add(more.cells.values(), more.runs[0])
        turned.append(made)
    assert rule.agreement(turned, (0,), (1,)) == pytest.approx(-1.0)


def test_ranks_of_ties_are_shared():
    assert rule.spearman([1.0, 2.0, 2.0, 3.0], [10.0, 20.0, 20.0, 30.0]) == pytest.approx(1.0)
    assert math.isnan(rule.spearman([1.0], [2.0]))
