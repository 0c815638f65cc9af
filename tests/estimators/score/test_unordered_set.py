"""UnorderedSet, with every set; test_joint_states.py has what it shares with RaoBlackwellized.

Where a test draws at random it says how often it raises a false alarm; all others cannot.
"""

import itertools

import pytest
import torch

import sampleprop as sp
from estimators.score.moments import BITS, CLASSES, PROBLEMS, bits, combined, exact, moments, onehot, states_of, wave
from sampleprop.estimators.score import score_function, unordered_set


def ordered_probability(p, members, without=()):
    """The probability that the members are drawn first, in any order, if `without` cannot be drawn."""
    total = sum(p[c] for c in range(len(p)) if c not in without)
    result = 0.0
    for order in itertools.permutations(members):
        left, product = total, 1.0
        for c in order:
            product, left = product * p[c] / left, left - p[c]
        result += product
    return result


def every_set(make, logits, k):
    """All sets of k possible outcomes, as rows, with their probabilities."""
    states, p = states_of(make, logits)
    numbers = p.tolist()
    subsets = list(itertools.combinations(range(len(p)), k))
    probability = torch.tensor([ordered_probability(numbers, s) for s in subsets], dtype=torch.float64)
    index = torch.tensor(subsets).T  # [k, rows]
    rest = torch.tensor([sum(q for c, q in enumerate(numbers) if c not in s) for s in subsets], dtype=torch.float64)
    return unordered_set.Draw(states[index], p[index].log(), rest.log()), probability


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_mean_over_all_sets_is_exact(k, problem):
    make, logits = PROBLEMS[problem]
    rows, probability = every_set(make, logits, k)
    values, gradients = combined(sp.UnorderedSet(k), make, logits, rows)
    value, gradient = exact(make, logits)
    torch.testing.assert_close(probability.sum(), torch.ones_like(value))
    torch.testing.assert_close(probability @ values, value)
    torch.testing.assert_close(moments(gradients, probability)[0], gradient)


def test_a_baseline_that_left_the_own_outcome_out_would_be_biased(monkeypatch):
    rows, probability = every_set(onehot, CLASSES, 3)
    right = unordered_set._weights

    def without_own(log_probs, log_rest):
        weight, others = right(log_probs, log_rest)
        return weight, others * ~torch.eye(3, dtype=torch.bool).unsqueeze(-1)

    monkeypatch.setattr(unordered_set, "_weights", without_own)
    mean, _ = moments(combined(sp.UnorderedSet(3), onehot, CLASSES, rows)[1], probability)
    gradient = exact(onehot, CLASSES)[1]
    assert (mean - gradient).norm() > 0.1 * gradient.norm()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_the_weights_are_those_of_all_orders(k, spread):
    p = (spread * torch.tensor([0.3, -1.0, 2.0, 0.5, -0.4, 0.1, -2.0])).double().softmax(0)
    numbers, members = p.tolist(), tuple(range(k))
    total = ordered_probability(numbers, members)
    log_rest = p[k:].sum().log()
    weight, others = unordered_set._weights(p[:k].log(), log_rest)
    for s in members:
        rest = [c for c in members if c != s]
        first = ordered_probability(numbers, rest, without=(s,))
        assert weight[s].item() == pytest.approx(numbers[s] * first / total, rel=1e-10)
        for t in rest:
            both = [c for c in rest if c != t]
            second = ordered_probability(numbers, both, without=(s, t)) / first
            assert others[s, t].item() == pytest.approx(numbers[t] * second, rel=1e-10)


@pytest.mark.parametrize("k", [2, 4, 7])
@pytest.mark.parametrize("gap", [1.0, 5.0, 15.0, 40.0])
def test_the_weights_are_accurate_in_float32_for_peaked_probabilities(k, gap):
    # 2k logarithms up to 9 gap in size are added, each with a relative error of 2^-24; float64 is exact beside that.
    logits = -gap * torch.arange(9, dtype=torch.float64)
    log_p = logits.log_softmax(0)
    for members in (list(range(k)), list(range(1, k + 1)), [0, *range(9 - k + 1, 9)]):
        rest = [c for c in range(9) if c not in members]
        log_probs, log_rest = log_p[members], log_p[rest].logsumexp(0)
        right = unordered_set._weights(log_probs, log_rest)
        for mine, expected in zip(unordered_set._weights(log_probs.float(), log_rest.float()), right, strict=True):
            assert mine.isfinite().all()
            torch.testing.assert_close(mine.double(), expected, rtol=2 * k * 9 * gap * 2**-24 + 1e-6, atol=1e-37)


def test_the_joint_outcomes_of_several_variables_are_covered():
    value, gradient = exact(bits, BITS)
    phi = BITS.clone().requires_grad_()
    result = sp.expect(lambda x: wave(x.unsqueeze(1)).squeeze(1), bits(phi), sp.UnorderedSet(8))
    result.backward()
    torch.testing.assert_close(result, value, check_dtype=False)
    torch.testing.assert_close(phi.grad, gradient)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_set_of_one_is_the_score_function_without_a_baseline(problem):
    make, logits = PROBLEMS[problem]
    rows, _ = every_set(make, logits, 1)
    mine = combined(sp.UnorderedSet(1), make, logits, rows)
    plain = combined(sp.ScoreFunction(1), make, logits, score_function.Draw(rows.points))
    torch.testing.assert_close(mine[0], plain[0])
    torch.testing.assert_close(mine[1], plain[1])


@pytest.mark.parametrize("k", [2, 3])
def test_the_measured_variance_is_that_of_all_sets(k):
    # The mean of |g - E g|² over the draws against its exact value; 4.5 standard errors, once in 147 000 runs, and
    # these are at most 2 %.
    rows, probability = every_set(onehot, CLASSES, k)
    gradients = combined(sp.UnorderedSet(k), onehot, CLASSES, rows)[1]
    mean, variance = moments(gradients, probability)
    squares = (gradients - mean).square().sum(1)
    count = 120_000
    error = ((probability @ (squares - variance).square()) / count).sqrt()
    assert 4.5 * error < 0.02 * variance
    phi = CLASSES.expand(count, 5).clone().requires_grad_()
    sp.expect(wave, onehot(phi), sp.UnorderedSet(k), generator=torch.Generator().manual_seed(0)).sum().backward()
    assert ((phi.grad - mean).square().sum(1).mean() - variance).abs() < 4.5 * error


def test_no_outcome_is_drawn_twice():
    draw = sp.UnorderedSet(6).propose(bits(BITS.expand(500, 3)), generator=torch.Generator().manual_seed(0))
    codes = (draw.points * torch.tensor([1.0, 2.0, 4.0])).sum(-1).sort(0)[0]
    assert (codes.diff(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [(lambda: sp.UnorderedSet(13), "at most 12 samples"), (lambda: sp.UnorderedSet(0), "at least 1")],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("budget", "forward"), [(100, 5), (3, 3)])
def test_a_budget_is_spent_on_samples(budget, forward):
    dist = onehot(CLASSES)
    assert sp.UnorderedSet().for_budget(dist, budget).evaluations(dist)[0] == forward
