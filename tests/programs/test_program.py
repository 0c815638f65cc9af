"""What a program is: which variable is charged for what, shapes, chains, draws, and what it refuses.

The z-tests compare at 4.9 standard errors, a false-alarm rate of 1e-6 for each number, below 1e-4 for this file.
"""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli, Binomial, Independent, Normal
from torch.nn.functional import cross_entropy

import sampleprop as sp
from programs.models import LEAVES, LIMIT, bits, exact, gradients, two_levels, z
from sampleprop.programs.site import _THREAD

ROWS = 20_000
EXACT = exact(two_levels(None, None), ("", ""))


def test_a_cost_before_a_variable_is_not_charged_to_it():
    """With the cost before it made huge, the variable's gradient stays what it was, number for number."""

    def gradient(before: float) -> Tensor:
        @sp.program
        def model(phi):
            a = sp.sample(bits(phi), sp.ScoreFunction(2))
            sp.charge(before * a.new_ones(2))
            b = sp.sample(bits(phi.detach() + a), sp.ScoreFunction(2))
            return (b.sum(-1) - a.sum(-1).detach()).square() * 0 + b.sum(-1)

        torch.manual_seed(0)
        phi = LEAVES[0].clone().requires_grad_()
        model(phi).backward()
        return phi.grad

    assert torch.allclose(gradient(0.0), gradient(1e6), atol=1e-9)


def test_the_second_derivative_of_two_score_function_levels_is_right():
    def hessian(model, rows: int) -> Tensor:
        phi = LEAVES[0].expand(rows, -1).clone().requires_grad_()
        other = [leaf.expand(rows, -1) for leaf in LEAVES[1:]]
        (slope,) = torch.autograd.grad(model(phi, phi + other[0], other[1]).sum(), phi, create_graph=True)
        columns = [torch.autograd.grad(slope[:, i].sum(), phi, retain_graph=True)[0] for i in range(2)]
        return torch.stack(columns, -1)

    torch.manual_seed(0)
    right = hessian(two_levels(sp.Enumerate(), sp.Enumerate()), 1)[0]
    assert z(hessian(two_levels(sp.ScoreFunction(2), sp.ScoreFunction(3)), 10 * ROWS), right) < LIMIT
    particles = two_levels(sp.ScoreFunction(None), sp.ScoreFunction(None)).using(particles=3)
    assert z(hessian(particles, 10 * ROWS), right) < LIMIT


def test_second_derivatives_through_another_estimator_are_refused():
    phi, *others = (leaf.clone().requires_grad_() for leaf in LEAVES)
    value = two_levels(sp.DisARM(), sp.ScoreFunction(2))(phi, *others)
    (slope,) = torch.autograd.grad(value, phi, create_graph=True)
    with pytest.raises(RuntimeError, match="DisARM estimates first derivatives only"):
        torch.autograd.grad(slope.sum(), phi)


def test_a_chain_of_a_thousand_variables_works():
    @sp.program
    def chain(phi, length):
        x = phi.detach() * 0
        for _ in range(length):
            x = sp.sample(Bernoulli(logits=phi + 0.1 * x))
            sp.charge(x)

    phi = torch.zeros(3, requires_grad=True)
    assert chain(phi, 1000).shape == (3,)


@pytest.mark.parametrize("apart", [None, 3])
def test_a_loop_of_random_length_is_right(apart):
    """Toss until tails: E[tosses] = 1 / (1 - p), whose derivative with respect to the logit is p / (1 - p)."""

    @sp.program
    def tosses(logit):
        heads = torch.ones((), dtype=torch.float64)
        while heads:
            sp.charge(torch.ones((), dtype=torch.float64))
            heads = sp.sample(Bernoulli(logits=logit))
        return torch.zeros((), dtype=torch.float64)

    torch.manual_seed(0)
    logit = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    values = [tosses.using(apart=apart)(logit) for _ in range(4000 // (apart or 1))]
    slopes = torch.stack([torch.autograd.grad(value, logit)[0] for value in values])
    odds = logit.detach().exp()
    assert z(torch.stack(values).detach(), 1 + odds) < LIMIT
    assert z(slopes, odds) < LIMIT


def test_runs_apart_take_other_paths_of_other_lengths():
    """Against forced replay; the baseline of a site that the others do not have is 0."""
    from sampleprop.programs import forced

    @sp.program
    def epidemic(beta, gamma):
        s, i, n = 2, 1, 0
        while i > 0 and n < 3:
            new = int(sp.sample(Binomial(s, logits=beta + 0.3 * i), name="new")) if s else 0
            out = int(sp.sample(Binomial(i, logits=gamma), name="out"))
            s, i, n = s - new, i + new - out, n + 1
        return torch.tensor((2 - s) / 2.0, dtype=torch.float64)

    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-0.4, 0.5)]
    right = forced.exact(epidemic, leaves, {}, leaves)
    assert right.paths > 20
    torch.manual_seed(0)
    runs = [epidemic.using(apart=4)(*leaves) for _ in range(2000)]
    slopes = torch.stack([torch.stack(torch.autograd.grad(run, leaves)) for run in runs])
    assert z(torch.stack(runs).detach(), right.value) < LIMIT
    assert z(slopes, torch.stack(right.gradients)) < LIMIT


def test_a_program_in_a_program_is_an_inner_expectation():
    """Five conditionally independent bits given a, as a program of its own and as an inner `expect`."""

    @sp.program
    def items(a):
        bit = sp.sample(Bernoulli(logits=a.unsqueeze(-1).expand(*a.shape, 5)), sp.Enumerate())
        return bit

    @sp.program
    def model(phi, inner):
        a = sp.sample(Bernoulli(logits=phi), sp.Enumerate())
        if inner:
            return a * items(a).sum(-1)
        rows = Bernoulli(logits=a.unsqueeze(-1).expand(*a.shape, 5))
        return a * sp.expect(lambda b: b, rows, sp.Enumerate()).sum(-1)

    phi = torch.tensor(0.4, dtype=torch.float64)
    right = phi.sigmoid() * 5 * torch.tensor(1.0).double().sigmoid()
    for inner in (True, False):
        torch.testing.assert_close(model(phi, inner), right)


def test_a_method_that_samples_is_inlined_by_its_plain_function():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.phi = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))

        @sp.program
        def part(self, scale):
            b = sp.sample(bits(scale * self.phi), sp.ScoreFunction(4), name="part")
            sp.charge(b.sum(-1))
            return 0 * b.sum(-1)

        @sp.program
        def whole(self):
            a = sp.sample(bits(self.phi), sp.ScoreFunction(2))
            cost = self.part.__wrapped__(1 + a)
            return cost + a[..., 0].expand_as(cost)

    model = Model()
    value, drawn = model.whole.sample()
    value.backward()
    assert {key: tuple(points.shape) for key, points in drawn.items()} == {0: (2, 3), "part": (4, 2, 3)}
    assert model.phi.grad.abs().sum() > 0


def test_the_draws_have_the_shape_that_the_program_saw():
    seen = []

    @sp.program
    def model(mean, logits):
        a = sp.sample(Normal(mean, 1.0), sp.Pathwise(None), name="x")
        b = sp.sample(Bernoulli(logits=logits + a), sp.ScoreFunction(1), name="x")
        c = sp.sample(Bernoulli(logits=logits + a + b), sp.REBAR(samples=2))
        d = sp.sample(Bernoulli(logits=logits + c), sp.LocalExpectation(), name="x")
        seen[:] = [x.detach() for x in (a, b, c, d)]
        return (a + b + c + d).square()

    _, drawn = model.sample(torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True))
    shapes = {key: tuple(points.shape) for key, points in drawn.items()}
    assert shapes == {"x": (5,), "x[1]": (5,), 2: (2, 5), "x[2]": (1, 2, 5)}  # one sample, with its probes after it
    assert seen[3].shape == (2, 2, 5)


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_cost_that_is_not_finite_is_named_wherever_it_stands(place):
    """The costs of one shape are looked at together, those of another by themselves."""

    @sp.program
    def model(logits):
        for t in range(7):
            x = sp.sample(Bernoulli(logits=logits), sp.ScoreFunction(None if t < 4 else 2))
            logits = logits.expand_as(x)
            sp.charge(torch.where(torch.arange(2) == 1, math.inf if t == place else 1.0, x))

    with pytest.raises(ValueError, match=r"A program needs finite costs; f returned inf at .* = \[.*1\]"):
        model(torch.zeros(2, requires_grad=True))


def test_the_same_generator_state_gives_the_same_result():
    model = two_levels(sp.ScoreFunction(2), sp.REBAR())
    leaves = [leaf.clone().requires_grad_() for leaf in LEAVES]
    first, second = (model.using(generator=Generator().manual_seed(3))(*leaves) for _ in range(2))
    assert torch.equal(first, second)


def test_estimators_are_changed_from_outside():
    model = two_levels(None, sp.ScoreFunction(2))
    _, drawn = model.using(sp.Enumerate()).sample(*LEAVES)
    assert [tuple(x.shape) for x in drawn.values()] == [(4, 2), (4, 4, 2)]
    _, drawn = model.using({"first": sp.DisARM(6)}).sample(*LEAVES)
    assert [tuple(x.shape) for x in drawn.values()] == [(6, 2), (2, 6, 2)]
    with pytest.raises(TypeError, match="using needs an estimator, or a dict of them by name; got 'first'"):
        model.using("first")


def module_level(logits: Tensor) -> Tensor:
    return sp.sample(Bernoulli(logits=logits))


pickled = sp.program(module_level)


def test_a_setting_is_kept_by_methods_and_by_pickle():
    class Model(torch.nn.Module):
        @sp.program
        def loss(self, logits):
            return sp.sample(Bernoulli(logits=logits))

    bound = Model().loss.using(particles=2).using(generator=Generator().manual_seed(0))
    assert bound(torch.zeros(3)).shape == (3,)
    other = pickle.loads(pickle.dumps(pickled.using(sp.ScoreFunction(4))))
    assert other.sample(torch.zeros(3))[1][0].shape == (4, 3)


def test_what_cannot_work_is_refused():
    @sp.program
    def wrong(kind):
        q = Bernoulli(logits=torch.zeros(3))
        if kind == "batch":
            sp.sample(q, sp.ScoreFunction(2))
            sp.sample(q, sp.ScoreFunction(2))
        elif kind == "cost":
            sp.sample(q, sp.ScoreFunction(2))
            return torch.zeros(3)
        elif kind == "independent":
            return sp.sample(q).sum(-1)
        elif kind == "last":
            sp.sample(q)
        elif kind == "item":
            return 3.0
        elif kind == "dist":
            sp.sample(torch.zeros(3))
        elif kind == "class":
            sp.sample(q, sp.ScoreFunction)
        elif kind == "single":
            return sp.sample(q, sp.ScoreFunction(None, baseline=sp.SelfCritical()))
        elif kind == "nan":
            return sp.sample(q) * torch.nan
        elif kind == "before":
            sp.charge(torch.zeros(2))
            return sp.sample(q)
        elif kind == "objective":
            return sp.sample(q, sp.VIMCO())
        elif kind == "kind":
            return sp.sample(q, sp.Pathwise())
        return None

    for kind, error, message in (
        ("batch", ValueError, r"needs a distribution of the batch shape \[2, 3\].*expand"),
        ("cost", ValueError, r"needs the batch shape at its place, \[2, 3\]; got \[3\]"),
        ("independent", ValueError, r"parts of one draw, wrap the distribution: Independent\(dist, 1\)"),
        ("last", ValueError, "needs a cost that is charged or returned after its variable"),
        ("item", TypeError, "returns and charges costs"),
        ("dist", TypeError, "sp.sample needs a torch.distributions object; got Tensor"),
        ("class", TypeError, "sp.sample needs an estimator object"),
        ("nothing", ValueError, "needs at least one cost"),
        ("single", ValueError, "evaluates f at several points.*samples=None"),
        ("nan", ValueError, "needs finite costs"),
        ("before", ValueError, r"Costs before the first variable need its batch shape, \[3\]; got \[2\]"),
        ("objective", TypeError, r"needs estimators of the mean cost; got VIMCO\(\).*log-mean-exp"),
        ("kind", TypeError, "Pathwise needs a continuous distribution"),
    ):
        with pytest.raises(error, match=message):
            wrong(kind)
        assert not _THREAD.runs  # an error leaves nothing behind


@pytest.mark.parametrize("setting", [{}, {"particles": 1}, {"particles": 8}, {"apart": 2}], ids=str)
@pytest.mark.parametrize("charged", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_over_the_batch_is_refused(reduction, charged, setting):
    """One number for all rows would be broadcast: each row would be charged for all others, or the scale be wrong."""
    targets = torch.tensor([0, 2, 1, 0, 2])

    @sp.program
    def classifier(logits, targets):
        cost = cross_entropy(sp.sample(bits(logits)), targets, reduction=reduction)
        return sp.charge(cost) if charged else cost

    rows = 5 * setting.get("particles", 1)
    found = rf"the batch shape at its place, \[{rows}\]; got \[\]. Give one cost for each row.*reduction=\"none\""
    with pytest.raises(ValueError, match=found) as refusal:
        classifier.using(**setting)(torch.zeros(5, 3, requires_grad=True), targets)
    # Repeated rows are never parts of one draw.
    assert ("Independent(dist, 1)" in str(refusal.value)) == ("particles" not in setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({}, r"batch shape, \[5\]; got \[\]. Give one cost for each row.*reduction="),
        ({"apart": 2}, r"batch shape, \[5\]; got \[\]. Give one cost for each row.*reduction="),
        ({"particles": 1}, r"needs the 5 rows of the repeated arguments; got \[\]. Keep one cost for each row"),
        ({"particles": 8}, r"needs the 40 rows of the repeated arguments; got \[\]. Keep one cost for each row"),
    ],
    ids=str,
)
def test_a_loss_over_the_batch_before_the_first_variable_is_refused(setting, message):
    @sp.program
    def penalized(logits):
        sp.charge(logits.square().mean())
        return sp.sample(bits(logits)).sum(-1)

    with pytest.raises(ValueError, match=message):
        penalized.using(**setting)(torch.zeros(5, 3, requires_grad=True))


@pytest.mark.parametrize("setting", [{}, {"apart": 2}], ids=str)
@pytest.mark.parametrize("charged", [False, True])
def test_one_number_is_right_in_a_program_without_a_variable(charged, setting):
    @sp.program
    def penalty(logits):
        cost = logits.square().mean()
        return sp.charge(cost) if charged else cost

    assert penalty.using(**setting)(torch.full((5, 3), 2.0)) == 4


@pytest.mark.parametrize(
    ("estimator", "setting"),
    [
        (sp.ScoreFunction(None), {}),
        (sp.ScoreFunction(None), {"apart": 2}),
        (sp.ScoreFunction(None), {"estimator": sp.CoupledReplay(2)}),
        (sp.ScoreFunction(4), {}),
        (sp.Enumerate(), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("charged", [False, True])
def test_one_number_is_right_without_a_batch(estimator, setting, charged):
    """Here all rows are parts of one draw, and the cost is linear in them, so that its mean and gradient are known."""

    @sp.program
    def model(logits):
        cost = sp.sample(Independent(Bernoulli(logits=logits), 2), estimator).mean((-1, -2))
        return sp.charge(cost) if charged else cost

    torch.manual_seed(0)
    found = []
    for _ in range(400):
        logits = torch.zeros(2, 2, requires_grad=True)
        value = model.using(**setting)(logits)
        value.backward()
        found.append(torch.stack([value.detach(), *logits.grad.flatten()]))
    assert z(torch.stack(found), torch.tensor([0.5, *[0.25 / 4] * 4])) < LIMIT


def test_a_number_for_all_samples_is_told_to_keep_them():
    """Without a batch there are no rows, and no distribution to wrap."""

    @sp.program
    def model(logits):
        return sp.sample(bits(logits), sp.ScoreFunction(4)).mean()

    with pytest.raises(ValueError, match=r"\[4\]; got \[\]. Sum over the event, keep the dimension that samples=K"):
        model(torch.zeros(3, requires_grad=True))


def test_a_generator_function_is_told_what_to_change():
    @sp.program
    def old(phi):
        a = yield bits(phi), sp.ScoreFunction(None)
        return a.sum(-1)

    with pytest.raises(TypeError, match=r"needs a plain function; got a generator function. Remove yield"):
        old(torch.zeros(2))


def test_a_relaxed_estimator_needs_a_path_from_its_variable_to_the_cost():
    @sp.program
    def model(phi):
        a = sp.sample(bits(phi), sp.REBAR())
        return (a.detach() > 0).sum(-1) * phi.sum()

    with pytest.raises(RuntimeError, match="needs a cost that is differentiable in x; got one with no path to x"):
        model(torch.zeros(2, requires_grad=True))


def chain(score: sp.Estimator, length: int, cost_at: frozenset[int]) -> sp.program:
    """Bits and real numbers in turn, two of each kind one after the other."""

    @sp.program
    def model(phi):
        x = phi[0] * 0
        for t in range(length):
            if t % 4 < 2:
                x = sp.sample(Bernoulli(logits=phi[0] + x * phi[1], validate_args=False), score)
            else:
                x = sp.sample(Normal(x - phi[1], 1.3), sp.Pathwise(None))
            if t in cost_at:
                sp.charge((x * phi[2] - 0.4).square())
        return x * phi[0]

    return model


@pytest.mark.parametrize("cost_at", [frozenset(range(9)), frozenset({2, 5})], ids=["all", "some"])
def test_variables_that_fold_together_give_what_they_give_one_by_one(cost_at):
    """A constant baseline of 0 changes nothing but keeps the engine from folding at once; to the second order."""
    phi = torch.tensor([[0.3, -0.2], [0.5, 0.4], [1.1, -0.7]], dtype=torch.float64, requires_grad=True)
    results = []
    for score in (sp.ScoreFunction(None), sp.ScoreFunction(None, baseline=sp.Constant(0.0))):
        value = chain(score, 9, cost_at).using(generator=Generator().manual_seed(3))(phi)
        (slope,) = torch.autograd.grad(value.sum(), phi, create_graph=True)
        (curve,) = torch.autograd.grad(slope.square().sum(), phi)
        results.append((value.detach(), slope.detach(), curve))
    for together, single in zip(*results, strict=True):
        assert torch.allclose(together, single, rtol=1e-10, atol=1e-12)


def test_score_functions_of_different_kinds_fold_together():
    phi = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)

    def model(score: sp.Estimator) -> Tensor:
        @sp.program
        def steps(phi):
            a = sp.sample(Bernoulli(logits=phi), score)
            b = sp.sample(Independent(Normal((phi + a).unsqueeze(-1).expand(2, 3), 1.0), 1), score)
            c = sp.sample(Bernoulli(probs=b.sum(-1).sigmoid()), score)
            return a * b.square().sum(-1) + c

        return torch.autograd.grad(steps.using(generator=Generator().manual_seed(0))(phi).sum(), phi)[0]

    one_by_one = model(sp.ScoreFunction(None, baseline=sp.Constant(0.0)))
    assert torch.allclose(model(sp.ScoreFunction(None)), one_by_one, rtol=1e-10)


def test_a_variable_that_the_cost_ignores_is_found_within_a_chain():
    @sp.program
    def model(phi):
        x = sp.sample(Normal(phi, 1.0))
        sp.sample(Normal(phi, 1.0))
        y = sp.sample(Normal(phi, 1.0))
        return sp.sample(Normal(y, 1.0)) + x.detach()

    with pytest.raises(RuntimeError, match="Pathwise needs a cost that is differentiable in x"):
        model(torch.zeros(3, requires_grad=True))


def test_the_values_that_are_sent_are_copies():
    @sp.program
    def model(phi):
        a = sp.sample(bits(phi), sp.ScoreFunction(None))
        a.zero_()
        b = sp.sample(bits(phi + a), sp.ScoreFunction(2))
        b.zero_()
        return b.sum(-1)

    torch.manual_seed(0)
    value, drawn = model.sample(torch.full((50, 2), 3.0, requires_grad=True))
    assert value.sum() == 0
    assert all(x.sum() > 0 for x in drawn.values())


def test_the_value_is_that_of_the_true_samples():
    torch.manual_seed(0)
    value, _ = gradients(two_levels(sp.ScoreFunction(None), sp.ScoreFunction(None)), ROWS)
    assert z(value, EXACT[0]) < LIMIT


@pytest.mark.parametrize("estimator", [sp.ScoreFunction(4), sp.DisARM(4), sp.ScoreFunction(None)], ids=str)
def test_costs_in_half_precision_are_averaged_in_single_precision(estimator):
    @sp.program
    def model(logits):
        return sp.sample(bits(logits), estimator).sum(-1) + 256

    logits = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
    value = model(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize("allowed", [True, False])
def test_a_path_may_end_at_a_variable_where_that_is_allowed(allowed):
    """Two pathwise variables in a row, the second of which the cost ignores."""

    @sp.program
    def model(mean):
        x = sp.sample(Normal(mean, 1.0), sp.Pathwise(None))
        sp.sample(Normal(x, 1.0), sp.Pathwise(None, allow_unused=allowed))
        return x.square()

    torch.manual_seed(0)
    mean = torch.zeros((), requires_grad=True)
    if allowed:
        (gradient,) = torch.autograd.grad(model(mean), mean)
        assert gradient != 0
    else:
        with pytest.raises(RuntimeError, match="Pathwise needs a cost that is differentiable in x"):
            model(mean)


def named(reached: bool = True):
    @sp.program
    def model(phi):
        a = sp.sample(Bernoulli(logits=phi), name="route")
        b = sp.sample(Bernoulli(logits=phi), name="layer1")
        return a + b + (sp.sample(Bernoulli(logits=phi), name="later") if reached else 0)

    return model


@pytest.mark.parametrize("apart", [None, 2])
def test_a_misspelled_name_of_an_estimator_is_refused(apart):
    phi = torch.zeros(3, requires_grad=True)
    score = sp.ScoreFunction(None)
    with pytest.raises(ValueError, match=r"got 'rout', .* Drawn were: 'later', 'layer1', 'route'\. Is it 'route'\?"):
        named().using({"rout": score}, apart=apart)(phi)
    for right in ({"route": score}, {"route": score, "layer1": score, "later": score}, {}):
        named().using(right, apart=apart)(phi)


def test_a_name_that_is_not_drawn_in_every_call_is_allowed():
    """With a warning, once, until it has been drawn; and without one after that."""
    phi = torch.zeros(3, requires_grad=True)
    score = sp.ScoreFunction(None)
    model = named(reached=False).using({"later": score})
    with pytest.warns(UserWarning, match=r"got 'later', which no .* so far\. Drawn were: 'layer1', 'route'\."):
        model(phi)
    model(phi)
    with pytest.warns(UserWarning, match="got 'layer2'"):  # near to layer1, but by another number
        named().using({"layer2": score})(phi)
    with pytest.warns(UserWarning, match="got 'routes'"):  # both are given, so both are meant
        named().using({"route": score, "routes": score})(phi)
    with pytest.warns(UserWarning, match="Drawn were: none with a name"):
        sp.program(lambda phi: sp.sample(Bernoulli(logits=phi))).using({"route": score})(phi)
    drawn = [True]

    @sp.program
    def sometimes(phi):
        return sp.sample(Bernoulli(logits=phi), name="on" if drawn[0] else "off")

    model = sometimes.using({"on": score})
    model(phi)
    drawn[0] = False
    model(phi)
    model.using({"on": sp.DisARM(2)})(phi)
