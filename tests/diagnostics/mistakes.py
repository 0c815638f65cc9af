"""Typical mistakes, each as a small problem: what a user wrote who got a wrong gradient. `check` should say so.

Those in `FOUND` it must find. Those in `INVISIBLE` it cannot see, because what is wrong is outside of what it is given;
its docstring and `docs/troubleshooting.md` name them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, LogNormal, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform

import sampleprop as sp


class Case(NamedTuple):
    """What `check` is given."""

    f: Callable[[Tensor], Any]
    dist: Distribution
    estimator: sp.Estimator[Any, Any]


def bits(batch: int = 5, size: int = 4) -> Distribution:
    """Four bits in a batch of five."""
    return Independent(Bernoulli(logits=torch.linspace(-1, 1, batch * size).reshape(batch, size).requires_grad_()), 1)


def normals() -> Distribution:
    """Three normal variables in a batch of four."""
    return Independent(Normal(torch.linspace(-1, 1, 12).reshape(4, 3).requires_grad_(), 1.0), 1)


def smooth(x: Tensor) -> Tensor:
    """A right cost."""
    return (x.sum(-1) - 1.3).square() + x[..., 0] * x[..., -1] - x[..., -1]


def with_gradient(value: Tensor, factor: float) -> Tensor:
    """The value, its gradient times a factor."""
    return factor * value + (1 - factor) * value.detach()


# Row mixing, in five forms.


def batch_norm() -> Case:
    """Batch normalization in training mode."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    return Case(lambda x: network(x.flatten(0, 1)).reshape(x.shape[:2]), bits(), sp.ScoreFunction(4))


def contrastive() -> Case:
    """A loss with the rest of the batch as negatives."""
    f = lambda x: -(x @ x.mT).log_softmax(-1).diagonal(dim1=-2, dim2=-1)  # noqa: E731
    return Case(f, bits(), sp.ScoreFunction(4))


def centred() -> Case:
    """The mean over the samples, each one's own cost included, taken off inside f."""
    return Case(lambda x: smooth(x) - smooth(x).mean(0), bits(), sp.ScoreFunction(4))


def neighbours() -> Case:
    """A penalty for a change from one batch element to the next."""
    return Case(lambda x: smooth(x) + 0.1 * (x - x.roll(1, 1)).square().sum(-1), bits(), sp.ScoreFunction(4))


def ranked() -> Case:
    """The rank of the cost within the batch, as evolution strategies shape rewards."""
    return Case(lambda x: smooth(x).argsort(1).argsort(1).float(), normals(), sp.ScoreFunction(4))


# Jumps under an estimator that differentiates f, in five forms.


def step() -> Case:
    """A comparison beside a slope."""
    return Case(lambda x: smooth(x) + (x > 0.3).float().sum(-1), normals(), sp.Pathwise())


def rounded() -> Case:
    """Rounding beside a slope."""
    return Case(lambda x: smooth(x) + (2 * x).round().sum(-1), normals(), sp.Pathwise())


def small_step() -> Case:
    """A jump of a few percent of the cost."""
    return Case(lambda x: smooth(x) + 0.05 * (x > 0.3).float().sum(-1), normals(), sp.Pathwise())


def rare_step() -> Case:
    """A barrier that one draw in two hundred passes."""
    dist = Normal(torch.zeros(4, requires_grad=True), 1.0)
    return Case(lambda x: (x > 2.5).float() + 0 * x, dist, sp.Pathwise())


def looked_up() -> Case:
    """A table that is read at the integer part of x."""
    table = torch.tensor([0.3, -1.0, 2.0, 0.5, 1.4, -0.7, 0.1])
    f = lambda x: smooth(x) + table[(x + 3).clamp(0, 6).long()].sum(-1)  # noqa: E731
    return Case(f, normals(), sp.Pathwise())


def relaxed_step() -> Case:
    """Relaxed bits that f compares with a half."""
    return Case(lambda x: smooth(x) + (x > 0.5).float().sum(-1), bits(), sp.REBAR())


# A derivative that is not that of f.


def detached_part() -> Case:
    """One factor of a product is detached."""
    return Case(lambda x: (x.detach() * x).sum(-1), normals(), sp.Pathwise())


def detached_target() -> Case:
    """A target computed from x without gradient, as in Q-learning."""

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            target = x.mean(-1, keepdim=True).tanh()
        return (x - target).square().sum(-1)

    return Case(f, normals(), sp.Pathwise())


def detached() -> Case:
    """The whole cost leaves the graph."""
    return Case(lambda x: smooth(x.detach()), normals(), sp.Pathwise())


def no_grad_decoder() -> Case:
    """The decoder runs under no_grad, and the estimator needs its derivative."""
    torch.manual_seed(0)
    decoder = nn.Linear(3, 2)

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            costs: Tensor = decoder(x).square().sum(-1)
        return costs

    return Case(f, normals(), sp.Pathwise())


class WrongBackward(torch.autograd.Function):
    """A square whose author forgot the 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        slope: Tensor = ctx.saved_tensors[0]
        return grads[0] * slope


def wrong_backward() -> Case:
    """An operation of the user's with a wrong backward."""
    return Case(lambda x: WrongBackward.apply(x).sum(-1), normals(), sp.Pathwise(2))  # type: ignore[no-untyped-call]


# An f that is not a function of the point.


def cached() -> Case:
    """Costs that were kept from the first call with that many points."""
    kept: dict[int, Tensor] = {}
    return Case(lambda x: kept.setdefault(len(x), smooth(x).detach()), bits(), sp.ScoreFunction(4))


def drifting() -> Case:
    """A penalty that grows with every call."""
    calls = iter(range(10**9))
    return Case(lambda x: smooth(x) + 1e-3 * next(calls), bits(), sp.ScoreFunction(4))


def running_mean() -> Case:
    """The running mean of all costs so far is taken off inside f."""
    mean = [torch.zeros(())]

    def f(x: Tensor) -> Tensor:
        costs = smooth(x)
        mean[0] = 0.9 * mean[0] + 0.1 * costs.detach().mean()
        return costs - mean[0]

    return Case(f, bits(), sp.ScoreFunction(4))


def sample_index() -> Case:
    """Weights by the index of the sample."""
    f = lambda x: smooth(x) / (1 + torch.arange(len(x))).reshape(-1, 1)  # noqa: E731
    return Case(f, bits(), sp.ScoreFunction(4))


def sample_count() -> Case:
    """The average over the samples taken inside f too."""
    return Case(lambda x: smooth(x) / len(x), bits(), sp.ScoreFunction(4))


def fixed_masks() -> Case:
    """A dropout mask for each sample, drawn once."""
    mask = (torch.rand(4096, 1, 4, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    return Case(lambda x: smooth(x * mask.repeat(1 + len(x) // 4096, 1, 1)[: len(x)]), bits(), sp.ScoreFunction(4))


def dropout() -> Case:
    """Dropout that is left on."""
    layer = nn.Dropout(0.3)
    return Case(lambda x: smooth(layer(x)), bits(), sp.ScoreFunction(4))


def another_sample() -> Case:
    """f looks at a sample that was drawn by hand, not at its argument."""
    drawn = bits().sample()
    return Case(lambda x: smooth(drawn).expand(x.shape[:2]), bits(), sp.ScoreFunction(4))


def offset() -> Case:
    """Single precision beside a large constant."""
    return Case(lambda x: smooth(x) + 1e7, bits(), sp.ScoreFunction(4))


# Estimators of the user's.


class OwnBaseline(sp.ScoreFunction):
    """The baseline is the mean cost, each sample's own included."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return with_gradient(super().estimate(*args, **kwargs), 1 - 1 / self.draws)


class WrongSign(sp.ScoreFunction):
    """The gradient of minus log p."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return with_gradient(super().estimate(*args, **kwargs), -1.0)


class AveragedScore(sp.ScoreFunction):
    """log p is averaged over the event and not summed."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return with_gradient(super().estimate(*args, **kwargs), 1 / 4)


class StaleLogits(sp.ScoreFunction):
    """Samples from the logits of a step ago, taken for present ones."""

    def draw(self, variables: Any, generator: Any = None) -> Any:
        draw = super().draw(variables, generator)
        stale = Bernoulli(logits=variables.logits.detach() + 0.7)
        return draw._replace(points=stale.sample((self.draws,)))


class Summed(sp.ScoreFunction):
    """The sum over the samples and not their mean."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.draws * super().estimate(*args, **kwargs)


class Silent(sp.StraightThrough):
    """A straight-through estimator that says it is unbiased."""

    unbiased = True


class DoubledPath(sp.Pathwise):
    """Twice the pathwise gradient."""

    def estimate(self, *args: Any, **kwargs: Any) -> Tensor:
        return with_gradient(super().estimate(*args, **kwargs), 2.0)


def lognormal() -> Case:
    """A wrong estimator under a distribution that torch computes from another one."""
    dist = LogNormal(torch.linspace(-0.5, 0.5, 3).requires_grad_(), 0.5)
    return Case(lambda x: (x - 1).square(), dist, DoubledPath(4))


def transformed() -> Case:
    """The same under a transformed distribution."""
    loc = torch.linspace(-0.5, 0.5, 3).requires_grad_()
    dist = TransformedDistribution(Normal(torch.zeros(3), 1.0), [AffineTransform(loc, 2.0)])
    return Case(lambda x: (x - 1).square(), dist, DoubledPath(4))


def own(estimator: sp.Estimator[Any, Any]) -> Callable[[], Case]:
    """An estimator of the user's on four bits."""
    return lambda: Case(lambda x: smooth(x).sin() + smooth(x), bits(), estimator)


# Shapes.


def not_independent() -> Case:
    """The bits are parts of one draw, and the distribution does not know it."""
    return Case(lambda x: smooth(x), Bernoulli(logits=torch.zeros(5, 4, requires_grad=True)), sp.ScoreFunction(4))


def in_place() -> Case:
    """f writes into its input."""
    return Case(lambda x: smooth(x.mul_(2)), bits(), sp.ScoreFunction(4))


FOUND: dict[str, Callable[[], Case]] = {
    "batch norm": batch_norm,
    "contrastive": contrastive,
    "own sample in the baseline inside f": centred,
    "neighbours in the batch": neighbours,
    "ranks within the batch": ranked,
    "step": step,
    "rounded": rounded,
    "small step": small_step,
    "rare step": rare_step,
    "looked up": looked_up,
    "relaxed step": relaxed_step,
    "detached part": detached_part,
    "detached target": detached_target,
    "detached": detached,
    "no_grad around the decoder, pathwise": no_grad_decoder,
    "wrong backward": wrong_backward,
    "cached": cached,
    "drifting": drifting,
    "running mean": running_mean,
    "sample index": sample_index,
    "sample count": sample_count,
    "fixed masks": fixed_masks,
    "dropout": dropout,
    "another sample": another_sample,
    "offset": offset,
    "own sample in a baseline": own(OwnBaseline(4)),
    "wrong sign": own(WrongSign(4)),
    "averaged score": own(AveragedScore(4)),
    "stale logits": own(StaleLogits(4)),
    "summed": own(Summed(4)),
    "straight-through that claims no bias": own(Silent(4)),
    "LogNormal": lognormal,
    "transformed": transformed,
    "without Independent": not_independent,
    "in place": in_place,
}


def no_grad_encoder() -> Case:
    """The encoder ran under no_grad: the estimate is right and leads nowhere."""
    return Case(smooth, Independent(Bernoulli(logits=torch.zeros(5, 4)), 1), sp.ScoreFunction(4))


def no_grad_decoder_black_box() -> Case:
    """The decoder's own parameters get no gradient, which a score function does not need."""
    torch.manual_seed(0)
    decoder = nn.Linear(4, 2)

    def f(x: Tensor) -> Tensor:
        with torch.no_grad():
            costs: Tensor = decoder(x).square().sum(-1)
        return costs

    return Case(f, bits(), sp.ScoreFunction(4))


def detached_kl() -> Case:
    """f holds a KL term whose distribution is detached: constant in φ."""
    dist = bits()
    law = Bernoulli(logits=dist.base_dist.logits.detach())  # type: ignore[attr-defined]
    prior = Bernoulli(logits=torch.zeros(5, 4))
    kl = torch.distributions.kl_divergence(law, prior).sum(-1)
    return Case(lambda x: smooth(x) + kl, dist, sp.ScoreFunction(4))


def rewards() -> Case:
    """A reward where a cost belongs."""
    return Case(lambda x: -smooth(x), bits(), sp.ScoreFunction(4))


INVISIBLE: dict[str, Callable[[], Case]] = {
    "no_grad around the encoder": no_grad_encoder,
    "no_grad around the decoder, black box": no_grad_decoder_black_box,
    "KL with a detached law": detached_kl,
    "rewards for costs": rewards,
}
