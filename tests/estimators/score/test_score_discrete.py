"""Score-function estimators for discrete variables: exact moments, by enumeration of every draw.

Where a test draws at random it says how often it raises a false alarm; all others cannot.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical

import sampleprop as sp
from sampleprop import families
from sampleprop.estimators.score import (
    bitflip,
    double_cv,
    muprop,
    rao_blackwellized,
    rodeo,
    score_function,
    unordered_set,
)

BITS = torch.tensor([0.4, -0.9, 1.3], dtype=torch.float64)
EDGE = torch.tensor([4.0, -5.0, 0.3], dtype=torch.float64)
CLASSES = torch.tensor([0.3, -1.0, 2.0, 0.5, -0.4], dtype=torch.float64)
VARIABLES = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.2]], dtype=torch.float64)


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def onehot(logits: Tensor) -> OneHotCategorical:
    return OneHotCategorical(logits=logits)


def onehots(logits: Tensor) -> Independent:
    return Independent(OneHotCategorical(logits=logits), 1)


PROBLEMS = {"bits": (bits, BITS), "edge": (bits, EDGE), "one-hot": (onehot, CLASSES), "one-hots": (onehots, VARIABLES)}


def wave(x: Tensor, theta: Tensor | float = 1.0) -> Tensor:
    """[k, rows, *event] -> [k, rows]: coupled, smooth between the points too, with an offset."""
    x = x.flatten(2)
    weights = torch.linspace(-1.0, 2.0, x.shape[-1], dtype=x.dtype)
    return 2 + theta * (x * weights).sum(-1).sin() + 0.5 * x[..., 0] * x[..., -1] ** 2


def exact(make, logits, f=wave):
    """The exact value and gradient."""
    phi = logits.clone().requires_grad_()
    value = sp.expect(lambda x: f(x.unsqueeze(1)).squeeze(1), make(phi), sp.Enumerate())
    value.backward()
    return value.detach(), phi.grad


def states_of(make, logits):
    """The possible joint states and their probabilities."""
    variables = families.recognize(make(logits))
    states = variables.support()
    probability = variables.log_prob(states).detach().exp()
    return states[probability > 0], probability[probability > 0]


def combined(estimator, make, logits, draw, f=wave):
    """Value and gradient of each row of a draw: [rows], [rows, ...]."""
    rows = draw.points.shape[1]
    phi = logits.expand(rows, *logits.shape).clone().requires_grad_()
    probe_costs = None if draw.probes is None else f(draw.probes)
    value = estimator.combine(make(phi), draw, f(draw.points), probe_costs=probe_costs, relaxed_f=f)
    value.sum().backward()
    return value.detach(), phi.grad


def moments(gradients, probability):
    """The mean, and the total variance, over all draws."""
    mean = torch.tensordot(probability, gradients, 1)
    return mean, probability @ (gradients - mean).square().flatten(1).sum(1)


def every_tuple(draw, make, logits, k):
    """All draws of k independent samples, as rows, with their probabilities."""
    states, p = states_of(make, logits)
    index = torch.tensor(list(itertools.product(range(len(states)), repeat=k))).T  # [k, rows]
    return draw(states[index]), p[index].prod(0)


# --- MuProp, DoubleCV, RODEO: independent samples with control variates -----------------------------------------------


def with_control_variates():
    yield sp.MuProp(), muprop.Draw
    yield sp.MuProp(2, coefficient=0.3, learn=True), muprop.Draw
    yield sp.DoubleCV(2), double_cv.Draw
    yield sp.RODEO(2), rodeo.Draw


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("scale", [1, 10])
def test_the_mean_is_exact_whatever_the_coefficients(index, problem, scale):
    estimator, draw = list(with_control_variates())[index]
    estimator = estimator.double()
    generator = torch.Generator().manual_seed(0)
    for parameter in estimator.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = scale * (parameter.data + 0.3 * noise)
    make, logits = PROBLEMS[problem]
    rows, probability = every_tuple(draw, make, logits, estimator.samples)
    values, gradients = combined(estimator, make, logits, rows)
    value, gradient = exact(make, logits)
    torch.testing.assert_close(probability @ values, value)
    torch.testing.assert_close(moments(gradients, probability)[0], gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("module", [muprop, double_cv])
def test_without_the_mean_added_back_as_a_gradient_it_would_be_biased(module, monkeypatch):
    estimator = sp.MuProp() if module is muprop else sp.DoubleCV()
    rows, probability = every_tuple(module.Draw, bits, BITS, estimator.samples)
    monkeypatch.setattr(families.Bernoullis, "through_mean", lambda variables, slope: torch.zeros_like(slope))
    mean, _ = moments(combined(estimator, bits, BITS, rows)[1], probability)
    gradient = exact(bits, BITS)[1]
    assert (mean - gradient).norm() > 0.2 * gradient.norm()


@pytest.mark.parametrize("index", range(4))
def test_theta_gets_the_mean_derivative_at_the_samples(index):
    estimator, draw = list(with_control_variates())[index]
    rows, _ = every_tuple(draw, bits, BITS, estimator.samples)
    theta = torch.ones(rows.points.shape[1], dtype=torch.float64, requires_grad=True)

    def f(x):
        return wave(x, theta)

    estimator.combine(bits(BITS.expand(len(theta), 3)), rows, f(rows.points), relaxed_f=f).sum().backward()
    expected = (wave(rows.points, 2.0) - wave(rows.points, 1.0)).mean(0)  # wave is linear in θ
    torch.testing.assert_close(theta.grad, expected)


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_parameter_receives_the_derivative_of_the_variance(index, sign):
    estimator, draw = list(with_control_variates())[index]
    estimator = estimator.double()
    if isinstance(estimator, sp.RODEO):
        torch.nn.init.constant_(estimator.network[-1].weight, 0.2)
    rows, probability = every_tuple(draw, bits, BITS, 2)
    phi = BITS.expand(len(probability), 3).clone().requires_grad_()
    value = estimator.combine(bits(phi), rows, wave(rows.points), relaxed_f=wave)
    (sign * probability * value).sum().backward()  # a user who maximizes must not maximize the variance

    def variance():
        return moments(combined(estimator.eval(), bits, BITS, rows)[1], probability)[1]

    for parameter in list(estimator.parameters()):
        slope = torch.zeros_like(parameter)
        for entry in range(parameter.numel()):
            values = []
            for step in (1e-5, -1e-5):
                parameter.data.view(-1)[entry] += step
                values.append(variance())
                parameter.data.view(-1)[entry] -= step
            slope.view(-1)[entry] = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close(parameter.grad, slope.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("problem", ["bits", "one-hots"])
def test_learning_lowers_the_exact_variance(index, problem):
    estimator, draw = list(with_control_variates())[index]
    for parameter in estimator.parameters():
        parameter.data += 0.5 * (
            parameter.dim() == 0
        )  # away from where the coefficients start, which may be good already
    make, logits = PROBLEMS[problem]
    rows, probability = every_tuple(draw, make, logits, 2)
    dist = make(logits.expand(len(probability), *logits.shape))

    def variance():
        return moments(combined(estimator.eval(), make, logits, rows)[1], probability)[1]

    before = variance()
    optimizer = torch.optim.Adam(estimator.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        value = estimator.train().combine(dist, rows, wave(rows.points), relaxed_f=wave)
        (probability * value).sum().backward()
        optimizer.step()
    assert variance() < 0.97 * before


def test_the_correction_of_double_cv_is_subtracted():
    def step(x):
        return 2 + (x * torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)).sum(-1).tanh()

    rows, probability = every_tuple(double_cv.Draw, bits, BITS, 2)
    estimator = sp.DoubleCV().double()
    variance = {}
    for coefficient in (-1.0, 0.0, 0.5):
        estimator.coefficient.data.fill_(coefficient)
        variance[coefficient] = moments(combined(estimator, bits, BITS, rows, step)[1], probability)[1]
    assert variance[0.5] < variance[0.0] < 0.5 * variance[-1.0]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_linear_cost_leaves_no_noise(problem):
    make, logits = PROBLEMS[problem]

    def linear(x):
        return 2 + (x.flatten(2) * torch.linspace(-1.0, 2.0, x[0, 0].numel(), dtype=x.dtype)).sum(-1)

    gradient = exact(make, logits, linear)[1]
    double = sp.DoubleCV()
    double.coefficient.data.fill_(1.0)
    for estimator in (sp.MuProp(), double):
        rows, _ = every_tuple(estimator._draw_type, make, logits, estimator.samples)
        gradients = combined(estimator, make, logits, rows, linear)[1]
        torch.testing.assert_close(gradients, gradient.expand_as(gradients))


def test_muprop_with_coefficient_zero_has_the_cost_at_the_mean_as_baseline():
    rows, _ = every_tuple(muprop.Draw, bits, BITS, 1)
    baseline = sp.Constant(wave(BITS.sigmoid().expand(1, 1, 3)).item())
    mine = combined(sp.MuProp(coefficient=0.0), bits, BITS, rows)[1]
    rows = score_function.Draw(rows.points)
    torch.testing.assert_close(mine, combined(sp.ScoreFunction(1, baseline=baseline), bits, BITS, rows)[1])


def test_muprop_evaluates_the_mean_once_for_all_samples():
    seen = []
    estimator = sp.MuProp(5)
    sp.expect(lambda x: (seen.append(len(x)), x.sum(-1))[1], bits(torch.zeros(4, 3)), estimator)
    assert seen == [5, 1]
    assert estimator.evaluations(bits(torch.zeros(4, 3))) == (6, 1)


# --- BitFlip and UGC --------------------------------------------------------------------------------------------------


def every_flip(make, logits, antithetic):
    """All pivots (with their partners, if antithetic) and bits to flip, as rows."""
    count = len(logits)
    points, probability = [], []
    if antithetic:
        # b = 1[u > 1 - p] and b̃ = 1[u < p] for u in the three parts that 1 - p and p cut: for each bit one of these.
        p = logits.sigmoid()
        pairs = [
            [((1, 0), q), ((0, 1), q), ((int(p_v > 0.5),) * 2, 1 - 2 * q)]
            for p_v, q in zip(p, torch.minimum(p, 1 - p), strict=True)
        ]
        for choice in itertools.product(*pairs):
            points.append([[pair[0] for pair, _ in choice], [pair[1] for pair, _ in choice]])
            probability.append(math.prod(float(weight) for _, weight in choice))
        points = torch.tensor(points, dtype=torch.float64).movedim(1, 0)  # [2, rows, bits]
        probability = torch.tensor(probability, dtype=torch.float64)
    else:
        states, probability = states_of(make, logits)
        points = states.unsqueeze(0)
    rows = probability.shape[0]
    flipped = torch.eye(count, dtype=torch.bool).repeat(rows, 1).unsqueeze(0)  # [1, rows * bits, bits]
    points = points.repeat_interleave(count, 1)
    probes = torch.where(flipped, 1 - points[:1], points[:1])
    return bitflip.Draw(points, probes, flipped), probability.repeat_interleave(count) / count


@pytest.mark.parametrize("logits", [BITS, EDGE])
def test_the_mean_over_all_flips_is_exact(logits):
    value, gradient = exact(bits, logits)
    for estimator in (sp.BitFlip(), sp.UGC()):
        rows, probability = every_flip(bits, logits, isinstance(estimator, sp.UGC))
        values, gradients = combined(estimator, bits, logits, rows)
        torch.testing.assert_close(probability @ values, value)
        torch.testing.assert_close(moments(gradients, probability)[0], gradient)


def variances(logits):
    """The exact variances of BitFlip and leave-one-out (two evaluations each), and of UGC and DisARM (from one pair)."""
    rows, probability = every_flip(bits, logits, False)
    flip = moments(combined(sp.BitFlip(), bits, logits, rows)[1], probability)[1]
    pairs, pair_probability = every_tuple(score_function.Draw, bits, logits, 2)
    score = moments(combined(sp.ScoreFunction(2), bits, logits, pairs)[1], pair_probability)[1]
    rows, probability = every_flip(bits, logits, True)
    clipped = moments(combined(sp.UGC(), bits, logits, rows)[1], probability)[1]
    first, second = rows.points
    difference = wave(rows.points)[0] - wave(rows.points)[1]
    disarm = difference[:, None] / 2 * (first - second) * logits.abs().sigmoid()
    return flip, score, clipped, moments(disarm, probability)[1]


def test_a_flip_has_low_variance_at_the_edges():
    flip, score, _, _ = variances(torch.tensor([6.0, -6.0, 5.0], dtype=torch.float64))
    assert flip < 0.1 * score


@pytest.mark.parametrize(
    ("logits", "most"), [(EDGE, 0.7), (torch.tensor([6.0, -6.0, 5.0], dtype=torch.float64), 0.1), (BITS, 1.0 + 1e-9)]
)
def test_ugc_clips_the_variance_of_disarm(logits, most):
    _, _, clipped, disarm = variances(logits)
    assert clipped <= most * disarm


@pytest.mark.parametrize("estimator", [sp.BitFlip(8), sp.UGC(8)], ids=str)
def test_an_impossible_flip_is_not_shown_to_f(estimator):
    logits = torch.tensor([math.inf, -math.inf, 1e4, -1e4, 0.3], requires_grad=True)
    expected = torch.tensor([1.0, 0.0, 1.0, 0.0])

    def f(x):
        return torch.where((x[..., :4] == expected).all(-1), x[..., 4], math.inf)

    sp.expect(f, bits(logits), estimator, generator=torch.Generator().manual_seed(0)).backward()
    assert (logits.grad[:4] == 0).all()
    assert logits.grad.isfinite().all()


def test_every_bit_is_flipped_equally_often():
    # χ² with 6 degrees of freedom above 35.3 once in 250 000 runs.
    count, bits_ = 70_000, 7
    draw = sp.BitFlip().propose(bits(torch.zeros(count, bits_)), generator=torch.Generator().manual_seed(0))
    seen = draw.flipped.sum((0, 1)).double()
    assert draw.flipped.sum() == count
    assert torch.equal(draw.flipped, draw.points != draw.probes)
    assert ((seen - count / bits_).square() / (count / bits_)).sum() < 35.3


# --- RaoBlackwellized -------------------------------------------------------------------------------------------------


def every_rest(estimator, make, logits):
    """The summed outcomes with all draws from the rest, as rows."""
    states, p = states_of(make, logits)
    order = p.argsort(descending=True)
    states, p = states[order], p[order]
    summed = estimator.samples - estimator.drawn
    rest = list(itertools.product(range(summed, len(p)), repeat=estimator.drawn))
    index = torch.tensor([(*range(summed), *drawn) for drawn in rest]).T  # [k, rows]
    share = p[summed:].sum()
    weights = torch.cat((p[index[:summed]], (share / estimator.drawn).expand(estimator.drawn, len(rest))))
    return rao_blackwellized.Draw(states[index], weights), (p[index[summed:]] / share).prod(0)


RAO_BLACKWELLIZED = [
    sp.RaoBlackwellized(2),
    sp.RaoBlackwellized(4),
    sp.RaoBlackwellized(3, baseline=False),
    sp.RaoBlackwellized(4, drawn=2),
    sp.RaoBlackwellized(4, drawn=2, baseline=False),
]


@pytest.mark.parametrize("estimator", RAO_BLACKWELLIZED, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_mean_over_all_draws_from_the_rest_is_exact(estimator, problem):
    make, logits = PROBLEMS[problem]
    rows, probability = every_rest(estimator, make, logits)
    values, gradients = combined(estimator, make, logits, rows)
    value, gradient = exact(make, logits)
    torch.testing.assert_close(probability @ values, value)
    torch.testing.assert_close(moments(gradients, probability)[0], gradient)


@pytest.mark.parametrize("drawn", [1, 2])
@pytest.mark.parametrize("problem", ["bits", "one-hot", "one-hots"])
def test_the_baseline_lowers_the_variance_of_a_cost_with_an_offset(drawn, problem):
    make, logits = PROBLEMS[problem]
    variance = {}
    for baseline in (True, False):
        estimator = sp.RaoBlackwellized(2 + drawn, drawn=drawn, baseline=baseline)
        rows, probability = every_rest(estimator, make, logits)
        variance[baseline] = moments(combined(estimator, make, logits, rows)[1], probability)[1]
    assert variance[True] < 0.5 * variance[False]


@pytest.mark.parametrize("drawn", [1, 2])
def test_a_baseline_on_the_drawn_part_alone_would_be_biased(drawn, monkeypatch):
    estimator = sp.RaoBlackwellized(2 + drawn, drawn=drawn)
    rows, probability = every_rest(estimator, onehot, CLASSES)
    right = sp.RaoBlackwellized._baseline

    def remainder_only(self, draw, costs):
        part = torch.tensor([0.0, 0.0, *[1.0] * drawn], dtype=torch.float64)
        return right(self, draw, costs) * part.unsqueeze(1)

    monkeypatch.setattr(sp.RaoBlackwellized, "_baseline", remainder_only)
    mean, _ = moments(combined(estimator, onehot, CLASSES, rows)[1], probability)
    gradient = exact(onehot, CLASSES)[1]
    assert (mean - gradient).norm() > 0.5 * gradient.norm()


@pytest.mark.parametrize("samples", [6, 9])
def test_summing_every_outcome_is_exact(samples):
    phi = CLASSES.clone().requires_grad_()
    value = sp.expect(lambda x: wave(x.unsqueeze(1)).squeeze(1), onehot(phi), sp.RaoBlackwellized(samples))
    value.backward()
    expected, gradient = exact(onehot, CLASSES)
    torch.testing.assert_close(value, expected, check_dtype=False)
    torch.testing.assert_close(phi.grad, gradient)


def test_the_rest_is_drawn_by_its_probabilities():
    # χ² with 2 degrees of freedom above 25 once in 270 000 runs.
    count = 50_000
    draw = sp.RaoBlackwellized(3).propose(onehot(CLASSES.expand(count, 5)), generator=torch.Generator().manual_seed(0))
    p = CLASSES.softmax(0)
    top = p.argsort(descending=True)[:2]
    expected = count * p / (1 - p[top].sum())
    expected[top] = 0
    seen = draw.points[2].sum(0)
    assert torch.equal(draw.points[:2, 0].argmax(-1), top)
    assert (seen[top] == 0).all()
    others = [c for c in range(5) if c not in top]
    assert ((seen - expected)[others].square() / expected[others]).sum() < 25


def test_the_rest_keeps_its_mass_where_the_summed_outcomes_hold_nearly_all():
    logits = torch.tensor([0.0, -30.0, -31.0])  # float32: 1 - p(T) would be 0
    draw = sp.RaoBlackwellized(2).propose(onehot(logits))
    torch.testing.assert_close(
        draw.weights[1], torch.tensor(-30.0).exp() + torch.tensor(-31.0).exp(), rtol=1e-6, atol=0.0
    )


# --- UnorderedSet -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("make", [onehot, lambda logits: Categorical(logits=logits)], ids=["one-hot", "integer"])
@pytest.mark.parametrize("masked", [0, 2])
def test_sets_and_sums_that_cover_every_possible_outcome_are_exact(make, masked):
    logits = CLASSES.clone()
    logits[:masked] = -math.inf
    table = torch.tensor([5.0, -1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    table[:masked] = math.inf  # f must not see these

    def f(x):
        return table[x.argmax(-1) if x.dtype == torch.float64 else x]

    results = []
    covering = (sp.UnorderedSet(5), sp.UnorderedSet(8), sp.RaoBlackwellized(6), sp.RaoBlackwellized(8, drawn=2))
    for estimator in (*covering, sp.Enumerate()):
        phi = logits.clone().requires_grad_()
        value = sp.expect(f, make(phi), estimator)
        value.backward()
        results.append((value.detach(), phi.grad))
    for value, gradient in results[:-1]:
        torch.testing.assert_close(value, results[-1][0])
        torch.testing.assert_close(gradient, results[-1][1])


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
    # The mean of |g - E g|² over the draws against its exact value; 4.5 standard errors, once in 147 000 runs, and these
    # are at most 2 %.
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


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [sp.UnorderedSet(), sp.RaoBlackwellized()], ids=str)
def test_too_many_joint_outcomes_are_refused(estimator):
    with pytest.raises(TypeError, match=r"at most limit=4096 joint outcomes; got 1048576. Raise the limit"):
        sp.expect(lambda x: x.sum(-1), bits(torch.zeros(20)), estimator)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sp.UnorderedSet(13), "at most 12 samples"),
        (lambda: sp.UnorderedSet(0), "at least 1"),
        (lambda: sp.RaoBlackwellized(2, drawn=2), "at least 3"),
        (lambda: sp.RaoBlackwellized(2, drawn=0), "got drawn=0"),
        (lambda: sp.DoubleCV(1), "at least 2"),
        (lambda: sp.RODEO(1), "at least 2"),
        (lambda: sp.MuProp(coefficient=math.nan), "finite coefficient"),
        (lambda: sp.BitFlip(0), "at least 1"),
        (lambda: sp.UGC(3), "an even number of samples"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("estimator", [sp.MuProp(), sp.DoubleCV(), sp.RODEO()], ids=str)
def test_f_is_asked_for_where_its_derivative_is_needed(estimator):
    draw = estimator.propose(bits(torch.zeros(3)))
    with pytest.raises(ValueError, match="Pass relaxed_f=f"):
        estimator.combine(bits(torch.zeros(3)), draw, draw.points.sum(-1))


@pytest.mark.parametrize("estimator", [sp.BitFlip(), sp.UGC()], ids=str)
def test_the_costs_of_the_flipped_points_are_asked_for(estimator):
    draw = estimator.propose(bits(torch.zeros(3)))
    with pytest.raises(ValueError, match=r"Pass probe_costs=f\(draw.probes\)"):
        estimator.combine(bits(torch.zeros(3)), draw, draw.points.sum(-1))


@pytest.mark.parametrize(
    ("estimator", "budget", "forward"),
    [
        (sp.UnorderedSet(), 100, 5),
        (sp.UnorderedSet(), 3, 3),
        (sp.RaoBlackwellized(drawn=2), 4, 4),
        (sp.DoubleCV(), 7, 6),
        (sp.RODEO(), 9, 8),
        (sp.MuProp(), 5, 5),
        (sp.LocalExpectation(), 11, 10),
    ],
    ids=str,
)
def test_a_budget_is_spent_on_samples(estimator, budget, forward):
    dist = onehot(CLASSES)
    assert estimator.for_budget(dist, budget).evaluations(dist)[0] == forward


@pytest.mark.parametrize(("estimator", "budget", "forward"), [(sp.BitFlip(), 7, 6), (sp.UGC(), 8, 6)], ids=str)
def test_a_budget_is_spent_on_flips(estimator, budget, forward):
    assert estimator.for_budget(bits(BITS), budget).evaluations(bits(BITS))[0] == forward
    assert sp.BitFlip().for_budget(bits(BITS), 1) is None
