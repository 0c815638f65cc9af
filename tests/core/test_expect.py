"""`expect` at its edges: what f may do, which distributions it meets, and what is refused."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.distributions as td
from torch.distributions import Bernoulli, Categorical, Independent, Normal

import sampleprop as sp


def bits(*shape: int) -> tuple[torch.Tensor, td.Distribution]:
    logits = torch.zeros(*shape, 3, requires_grad=True)
    return logits, Independent(Bernoulli(logits=logits), 1)


def test_f_that_writes_through_numpy_does_not_reach_the_points():
    logits, q = bits()
    weights = torch.tensor([1.0, 2.0, 4.0])  # so that no two points cost the same

    def f(x):
        array = x.numpy()
        np.multiply(array, 2, out=array)
        return array @ weights.numpy()

    gradients = []
    for cost in (f, lambda x: 2 * (x @ weights)):
        torch.manual_seed(0)
        (gradient,) = torch.autograd.grad(sp.expect(cost, q, sp.ScoreFunction(4)), logits)
        gradients.append(gradient)
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_f_may_return_one_buffer_again_and_again():
    logits, q = bits()
    buffer = torch.zeros(1)

    def f(x):
        buffer[:] = x.sum(-1)
        return buffer

    gradients = []
    for cost in (f, lambda x: x.sum(-1)):
        torch.manual_seed(0)
        (gradient,) = torch.autograd.grad(sp.expect(cost, q, sp.ScoreFunction(1, baseline=sp.SelfCritical())), logits)
        gradients.append(gradient)
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_a_transform_with_a_cache_keeps_its_parameters():
    """x ~ N(p, 1), f = x²: the derivative is 2p; 5 standard errors, a false alarm in 2 million."""
    rows = 20_000
    p = torch.full((rows,), 0.3, dtype=torch.float64, requires_grad=True)
    base = Normal(torch.zeros(rows, dtype=torch.float64), torch.ones(rows, dtype=torch.float64))
    q = td.TransformedDistribution(base, [td.AffineTransform(p, 1.0, cache_size=1)])
    sp.expect(torch.square, q, sp.ScoreFunction(4)).sum().backward()
    assert abs(p.grad.mean() - 0.6) < 5 * p.grad.std() / rows**0.5


def test_a_sampled_bad_cost_leaves_theta_finite_when_dropped():
    _, q = bits(50)
    theta = torch.tensor(1.0, requires_grad=True)
    value = sp.expect(lambda x: theta * x.sum(-1).log(), q, sp.ScoreFunction(16), nonfinite="drop")
    value.sum().backward()
    assert theta.grad.isfinite()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_costs_that_are_not_finite_are_named_left_out_or_let_through(bad):
    _, q = bits(2)

    def f(spoiled):
        """1 for all points, but at first not where it is spoiled: those that are left out are not shown again."""
        answers = iter((torch.where(spoiled, bad, 1.0), torch.ones(3, 2)))
        return lambda x: next(answers)

    first, row = torch.tensor([[0, 1], [0, 0], [0, 0]]) > 0, torch.tensor([[0, 1]] * 3) > 0
    with pytest.raises(ValueError, match=rf"needs finite costs; f returned {bad} at \[sample, \*batch\] = \[0, 1\]"):
        sp.expect(f(first), q, sp.ScoreFunction(3))
    assert torch.equal(sp.expect(f(first), q, sp.ScoreFunction(3), nonfinite="drop"), torch.ones(2))
    let_through = sp.expect(f(first), q, sp.ScoreFunction(3), nonfinite="propagate")
    assert torch.equal(let_through.isfinite(), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"needs a finite cost for each batch element; .* at batch index \[1\]"):
        sp.expect(f(row), q, sp.ScoreFunction(3), nonfinite="drop")


def test_a_cost_may_be_the_point_itself():
    mean = torch.zeros(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(sp.expect(lambda x: x, Normal(mean, 1.0), sp.Pathwise()).sum(), mean)
    assert torch.equal(gradient, torch.ones(3))


def between(x: torch.Tensor) -> torch.Tensor:
    """Whether a point is none of the discrete ones, [k, *batch]."""
    return ((x > 0) & (x < 1)).any(-1)


def test_a_relaxed_point_with_a_bad_cost_raises():
    """The costs of the discrete points, which come first, are finite."""
    _, q = bits()

    def f(x):
        return x.sum(-1) + torch.where(between(x), torch.inf, 0.0)

    with pytest.raises(ValueError, match="REBAR needs finite costs; f returned inf"):
        sp.expect(f, q, sp.REBAR())
    assert not sp.expect(f, q, sp.REBAR(), nonfinite="propagate").isnan()  # the value is that of the discrete points


def test_a_relaxed_point_with_a_bad_derivative_raises():
    _, q = bits()

    def f(x):
        return x.sum(-1) + torch.where(between(x), (x * 0).abs().sum(-1).sqrt(), 0.0)  # √0 has an infinite derivative

    with pytest.raises(ValueError, match="REBAR needs a finite derivative of f"):
        sp.expect(f, q, sp.REBAR())
    sp.expect(f, q, sp.REBAR(), nonfinite="propagate")


def test_a_relaxed_point_without_a_path_to_its_cost_raises():
    _, q = bits()
    with pytest.raises(RuntimeError, match="REBAR needs a cost that is differentiable in x; got one with no path"):
        sp.expect(lambda x: x.detach().sum(-1), q, sp.REBAR())


def test_probes_are_evaluated_without_gradient_and_their_costs_are_checked():
    _, q = bits()
    theta = torch.ones((), requires_grad=True)
    grad_enabled = []

    def f(x):
        grad_enabled.append(torch.is_grad_enabled())
        # The most probable point, which is the probe, is 0.
        return theta * x.sum(-1) + torch.where(x.any(-1) | (len(x) > 1), 0.0, torch.inf)

    estimator = sp.ScoreFunction(5, baseline=sp.SelfCritical())
    with pytest.raises(ValueError, match="ScoreFunction needs finite costs; f returned inf"):
        sp.expect(f, q, estimator)
    assert grad_enabled == [True, False]
    assert sp.expect(f, q, estimator, nonfinite="propagate").isfinite()


def test_a_saved_pathwise_draw_is_refused(tmp_path):
    mean = torch.zeros(3, requires_grad=True)
    q = Independent(Normal(mean, 1.0), 1)
    estimator = sp.Pathwise()
    torch.save(estimator.propose(q).points, tmp_path / "points.pt")
    draw = estimator.propose(q)._replace(points=torch.load(tmp_path / "points.pt"))
    with pytest.raises(RuntimeError, match="needs points that are attached to φ"):
        estimator.combine(q, draw, draw.points.square().sum(-1))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda p: td.Uniform(0.0, p), "Uniform"),
        (lambda p: td.Pareto(p, torch.tensor(3.0)), "Pareto"),
        (
            lambda p: td.MixtureSameFamily(Categorical(torch.ones(2)), td.Uniform(torch.zeros(2), p.expand(2))),
            "MixtureSameFamily",
        ),
        (
            lambda p: td.TransformedDistribution(
                td.HalfNormal(torch.tensor(1.0)), [td.ComposeTransform([td.AffineTransform(p, 1.0)])]
            ),
            "TransformedDistribution",
        ),
        (
            lambda p: td.TransformedDistribution(
                td.Laplace(torch.tensor(0.0), torch.tensor(1.0)), [td.SigmoidTransform(), td.AffineTransform(0.0, p)]
            ),
            "TransformedDistribution",
        ),
    ],
)
def test_a_support_that_moves_is_refused_by_the_score_function(make, kind):
    q = make(torch.tensor(1.0, requires_grad=True))
    with pytest.raises(TypeError, match=f"needs a support that does not move with the parameters; got {kind}"):
        sp.expect(lambda x: x, q, sp.ScoreFunction(2))


def test_the_default_never_differentiates_through_a_straight_through_sample():
    logits = torch.zeros(3, requires_grad=True)
    inner = td.OneHotCategoricalStraightThrough(logits=logits)
    q = td.TransformedDistribution(inner, [td.AffineTransform(-1.0, 2.0)])
    assert sp.Pathwise().refusal(q) is not None
    assert sp.Pathwise().refusal(inner) is not None


def test_a_subclass_with_its_own_sample_is_taken_at_its_word():
    class Greedy(Bernoulli):
        def sample(self, sample_shape=()):
            return torch.ones(self._extended_shape(sample_shape))

        def log_prob(self, value):
            return self.logits - self.logits.detach()

    q = Greedy(logits=torch.full((4,), -30.0, requires_grad=True))
    assert torch.equal(sp.expect(lambda x: x, q, sp.ScoreFunction(2)), torch.ones(4))


def test_whole_number_parameters_do_not_truncate_samples():
    x = sp.ScoreFunction(64).propose(Normal(torch.tensor(0), torch.tensor(1.0))).points
    assert x.is_floating_point()
    assert (x != x.round()).any()


def test_a_list_of_tensors_is_no_cost():
    _, q = bits()
    with pytest.raises(TypeError, match=r"needs the costs as one tensor; f returned \[tensor"):
        sp.expect(lambda x: list(x.sum(-1)), q, sp.ScoreFunction(2))


@pytest.mark.parametrize("estimator", [None, sp.ScoreFunction(2)], ids=str)
def test_a_row_without_a_possible_class_is_named(estimator):
    logits = torch.zeros(4, 3)
    logits[2] = -torch.inf
    with pytest.raises(ValueError, match=r"at least one possible class.*at index \[2\]"):
        sp.expect(lambda x: x.float(), Categorical(logits=logits, validate_args=False), estimator)


@pytest.mark.parametrize("estimator", [None, sp.ScoreFunction(2), sp.DisARM(), sp.GumbelSoftmax()], ids=str)
def test_a_bit_whose_logit_is_no_number_is_named(estimator):
    logits = torch.zeros(4, 3)
    logits[2, 1] = torch.nan
    q = Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
    with pytest.raises(ValueError, match=r"needs bits whose logits are numbers; got NaN at index \[2, 1\]"):
        sp.expect(lambda x: x.sum(-1), q, estimator)


def test_probe_costs_of_another_shape_are_refused():
    _, q = bits(2)
    estimator = sp.ScoreFunction(3, baseline=sp.SelfCritical())
    draw = estimator.propose(q)
    with pytest.raises(ValueError, match=r"needs one cost for each point, shape \[k, \*batch\] = \[1, 2\]"):
        estimator.combine(q, draw, draw.points.sum(-1), probe_costs=draw.points.sum(-1))


def test_check_and_compare_do_not_pass_an_infinite_gradient():
    mean = torch.zeros(3, requires_grad=True)
    q = Independent(Normal(mean, 1.0), 1)

    def f(x):
        return (x * 0).sum(-1).abs().sqrt() + x.sum(-1)

    assert not sp.check(f, q, sp.Pathwise()).ok
    assert sp.compare(f, q, [sp.Pathwise()], replicates=128, exact={"loc": torch.ones(3)}).rows == ()


def test_a_compiled_step_takes_another_batch_size():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(logits):
        # torch cannot trace its own argument checks
        q = Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)
        return sp.expect(lambda x: x.sum(-1), q, sp.ScoreFunction(2))

    for batch in (3, 5, 7):
        assert step(torch.zeros(batch, 3)).shape == (batch,)


def test_a_transformed_distribution_without_gradient_is_no_endless_search():
    assert sp.expect(torch.square, td.Gumbel(torch.zeros(3), 1.0), sp.Pathwise()).shape == (3,)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("kind", [sp.Pathwise, sp.StickingTheLanding, sp.ImportanceWeighted, sp.DoublyReparameterized])
def test_a_cost_that_ignores_the_points_passes_only_where_that_is_allowed(kind, allowed):
    mean = torch.zeros(3, requires_grad=True)
    q = Independent(Normal(mean, 1.0), 1)
    estimator = kind(2, allow_unused=allowed)
    if allowed:
        assert sp.expect(lambda x: torch.ones(2), q, estimator).isfinite()
    else:
        with pytest.raises(
            RuntimeError, match=f"{kind.__name__} needs a cost that is differentiable in x; got one with"
        ):
            sp.expect(lambda x: torch.ones(2), q, estimator)


class Kept(td.Distribution):
    """All its mass at a tensor that it keeps, and hands out without a copy."""

    arg_constraints: ClassVar = {"v": td.constraints.real}
    support = td.constraints.real

    def __init__(self, v, validate_args=None):
        self.v = v
        super().__init__(v.shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.v.detach().expand(*sample_shape, *self.batch_shape)

    def log_prob(self, value):
        return 0 * (value - self.v)


@pytest.mark.parametrize("estimator", [sp.SPSA(1), sp.EvolutionStrategies(1)])
def test_f_that_writes_through_numpy_does_not_reach_what_a_distribution_keeps(estimator):
    v = torch.tensor([1.0, 2.0], requires_grad=True)

    def f(x):
        array = x.numpy()
        found = torch.from_numpy(array**2)
        array[...] = 99
        return found

    sp.expect(f, Kept(v), estimator)
    assert v.tolist() == [1, 2]


def test_an_estimate_of_ones_own_may_read_the_points():
    class Own(sp.ARM):
        def estimate(self, variables, draw, costs):
            return super().estimate(variables, draw, costs)

    assert not sp.ARM.reads_points
    assert Own.reads_points
