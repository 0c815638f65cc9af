"""The estimators in the tightest plain PyTorch: what the mathematics costs.

Each takes a family, its parameter, the cost f and the number of samples k, and returns [*batch] for
`.sum().backward()`, like its namesake in `naive`. Scores are analytic, x - p; nothing that is constant has a graph;
noise is drawn and used in place; no distribution object is made and nothing is checked.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad

from naive import Cost, Quadratic


class Family(NamedTuple):
    """Independent variables with logits: p from the logits, samples from p, and a relaxation from perturbed logits."""

    probs: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, int], Tensor]
    noise: Callable[[Tensor, int], Tensor]
    harden: Callable[[Tensor], Tensor]
    event: tuple[int, ...]


def _softmax(logits: Tensor) -> Tensor:
    weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()  # torch's softmax is slow over few classes
    return weights / weights.sum(-1, keepdim=True)


def _one_hot_sample(p: Tensor, k: int) -> Tensor:
    upto = p.cumsum(-1)
    u = torch.rand(k, *p.shape[:-1], 1, dtype=p.dtype) * upto[..., -1:]
    x = (u < upto).to(p.dtype)
    x[..., 1:] -= x[..., :-1].clone()
    return x


def _one_hot(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1)


def _uniform(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.rand(shape, dtype=like.dtype).clamp_min_(1e-9)


def _gumbel(logits: Tensor, k: int) -> Tensor:
    return _uniform((k, *logits.shape), logits).log_().neg_().log_().neg_()


def _logistic(logits: Tensor, k: int) -> Tensor:
    return _uniform((k, *logits.shape), logits).logit_()


def _bits_sample(p: Tensor, k: int) -> Tensor:
    return torch.rand((k, *p.shape), dtype=p.dtype).lt_(p)


BITS = Family(torch.sigmoid, _bits_sample, _logistic, lambda scores: (scores > 0).to(scores.dtype), (-1,))
ONE_HOTS = Family(_softmax, _one_hot_sample, _gumbel, _one_hot, (-2, -1))
OUTCOMES = Family(_softmax, _one_hot_sample, _gumbel, _one_hot, (-1,))
REALS = Family(torch.clone, _bits_sample, _logistic, torch.clone, (-1,))  # of a mean: only its event counts


def attach(value: Tensor, parameter: Tensor, gradient: Tensor, family: Family = BITS) -> Tensor:
    """The value, with the gradient by the parameter."""
    s = (gradient * parameter).sum(family.event)
    return value + (s - s.detach())


def _to(x: Tensor, family: Family) -> Tensor:
    return x[..., None] if len(family.event) == 1 else x[..., None, None]


def _weighed(weights: Tensor, x: Tensor, family: Family) -> Tensor:
    """Σ_k w_k x_k: [k, *batch] and [k, *batch, *event] -> [*batch, *event]."""
    if len(weights) == 1:
        return _to(weights[0], family) * x[0]
    if x.numel() < 50_000:
        return (_to(weights, family) * x).sum(0)
    rows = x.flatten(weights.dim()).movedim(0, -2)  # [*batch, k, coordinates]
    return (weights.movedim(0, -1).unsqueeze(-2) @ rows).reshape(x.shape[1:])


def _scored(weights: Tensor, x: Tensor, p: Tensor, family: Family) -> Tensor:
    """Σ_k w_k (x_k - p)."""
    if len(weights) == 1:
        return _to(weights[0], family) * (x[0] - p)
    return _weighed(weights, x, family) - _to(weights.sum(0), family) * p


# Score function


def score_function(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = family.probs(logits.detach())
    x = family.sample(p, k)
    costs = f(x)
    fixed = costs.detach()
    return attach(costs.mean(0), logits, _scored(fixed if k == 1 else fixed / k, x, p, family), family)


def leave_one_out(family: Family, logits: Tensor, f: Cost, k: int = 2) -> Tensor:
    p = family.probs(logits.detach())
    x = family.sample(p, k)
    costs = f(x)
    value = costs.mean(0)
    weights = (costs.detach() - value.detach()) / (k - 1)  # sums to 0, so that p drops out
    return attach(value, logits, _weighed(weights, x, family), family)


def muprop(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = family.probs(logits.detach())
    mean = p.unsqueeze(0).requires_grad_()
    at_mean = f(mean)
    (slope,) = grad(at_mean.sum(), mean)
    mean, at_mean = mean.detach(), at_mean.detach()
    x = family.sample(p, k)
    costs = f(x)
    score = x - p
    weights = (costs.detach() - at_mean - (slope * score).sum(family.event)) / k
    return attach(costs.mean(0), logits, _weighed(weights, score, family) + _through_mean(slope[0], p, family), family)


def _through_mean(slope: Tensor, p: Tensor, family: Family) -> Tensor:
    if family is BITS:
        return slope * (p - p * p)
    return p * (slope - (p * slope).sum(-1, keepdim=True))


def _value_and_slopes(f: Cost, x: Tensor) -> tuple[Tensor, Tensor]:
    """f for θ, and its derivative by x apart from it: two evaluations, as the library counts them."""
    points = x.detach().requires_grad_()
    (slopes,) = grad(f(points).sum(), points)
    x.requires_grad_(False)
    return f(x), slopes


class DoubleCV:
    def __init__(self, size: int) -> None:
        self.coefficient = torch.tensor(0.0, requires_grad=True)

    def __call__(self, family: Family, logits: Tensor, f: Cost, k: int = 2) -> Tensor:
        p = family.probs(logits.detach())
        x = family.sample(p, k)
        costs, slopes = _value_and_slopes(f, x)
        score = x - p
        total = slopes.sum(0)
        tangents = ((total - slopes) * score).sum(family.event) / (k - 1)
        fixed = costs.detach()
        both = [_weighed((w - w.mean(0)) / (k - 1), x, family) for w in (fixed, tangents)]
        added = _through_mean(total / k, p, family) - both[1]
        gradient = both[0] + self.coefficient.detach() * added
        self.coefficient.grad = 2 * (gradient * added).sum().to(self.coefficient.dtype)
        return attach(costs.mean(0), logits, gradient, family)


class RODEO:
    def __init__(self, size: int) -> None:
        self.alpha, self.beta = (torch.tensor(0.0, requires_grad=True) for _ in range(2))
        self.network = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), last := nn.Linear(8, 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def __call__(self, family: Family, logits: Tensor, f: Cost, k: int = 2) -> Tensor:
        p = family.probs(logits.detach())
        x = family.sample(p, k)
        costs, slopes = _value_and_slopes(f, x)
        fixed, score = costs.detach(), x - p
        order = torch.tensor([[j for j in range(k) if j != i] for i in range(k)])
        own, other, slope, cost = x.unsqueeze(1), x[order], slopes[order], fixed[order]
        tangent = (slope * (own - other)).sum(family.event)  # [k, k - 1, *batch]
        step = slope * (1 - 2 * own) if family is BITS else slope - (slope * own).sum(-1, keepdim=True)
        moved = self._h(_to(cost, family), _to(tangent, family) + step).mean(1)
        here = self._h(cost, tangent).mean(1)
        if family is BITS:
            stein = (score.abs() * (moved - _to(here, family))).sum(-1)
            vector = (_to(stein, family) - moved) * score
        else:
            weighed = p * moved
            resampled = weighed.sum(-1, keepdim=True)
            stein = (resampled - here[..., None, None]).sum((-2, -1))
            vector = _to(stein, family) * score + weighed - resampled * x
        h = fixed + self.alpha * stein
        advantage = fixed - (h.sum(0) - h) / (k - 1)
        gradient = (_to(advantage, family) * score + self.beta * vector).mean(0)
        own_parameters = [self.alpha, self.beta, *self.network.parameters()]
        for parameter, by in zip(own_parameters, grad(gradient.square().sum(), own_parameters), strict=True):
            parameter.grad = by
        return attach(costs.mean(0), logits, gradient.detach(), family)

    def _h(self, cost: Tensor, tangent: Tensor) -> Tensor:
        inputs = torch.stack((cost.expand_as(tangent), tangent), -1)
        return tangent + self.network(inputs.to(self.alpha.dtype)).squeeze(-1)


def _flip(x: Tensor) -> tuple[Tensor, Tensor]:
    """x with one bit flipped, and which: [k, *batch, 1]."""
    chosen = torch.randint(x.shape[-1], (*x.shape[:-1], 1))
    flipped = x.clone()
    return flipped.scatter_(-1, chosen, 1 - x.gather(-1, chosen)), chosen


def bitflip(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = logits.detach().sigmoid()
    x = _bits_sample(p, k)
    flipped, chosen = _flip(x)
    with torch.no_grad():
        rise = f(flipped)
    costs = f(x)
    rise = ((rise - costs.detach()) * (x.shape[-1] / k)).unsqueeze(-1) * (1 - 2 * x.gather(-1, chosen))
    gradient = torch.zeros_like(x).scatter_(-1, chosen, rise)
    return attach(costs.mean(0), logits, (gradient[0] if k == 1 else gradient.sum(0)) * (p - p * p))


def ugc(family: Family, logits: Tensor, f: Cost, k: int = 2) -> Tensor:
    p = logits.detach().sigmoid()
    x, difference = _antithetic(p, k)
    flipped, chosen = _flip(x[: k // 2])
    with torch.no_grad():
        rise = f(flipped)
    costs = f(x)
    first, second = costs.detach().chunk(2)
    rare = torch.minimum(p, 1 - p)
    pair = _weighed((first - second) / k, difference, family) * (1 - rare)
    rise = ((rise - first) * (x.shape[-1] * 2 / k)).unsqueeze(-1) * (1 - 2 * x[: k // 2].gather(-1, chosen))
    single = torch.zeros_like(difference).scatter_(-1, chosen, rise).sum(0) * (p - p * p)
    return attach(costs.mean(0), logits, torch.where(rare < 1 / (2 * x.shape[-1]), single, pair))


def rao_blackwellized(family: Family, logits: Tensor, f: Cost, k: int = 4) -> Tensor:
    p = _softmax(logits.detach())
    top, index = p.topk(k - 1, -1)
    upto = p.scatter(-1, index, 0).cumsum(-1)
    rest = upto[..., -1:]
    drawn = torch.searchsorted(upto, torch.rand_like(rest) * rest, right=True)
    chosen = torch.cat([index, drawn], -1)  # [*batch, k]
    weights = torch.cat([top, rest], -1).movedim(-1, 0)
    x = torch.zeros(*chosen.shape, p.shape[-1], dtype=p.dtype).scatter_(-1, chosen.unsqueeze(-1), 1).movedim(-2, 0)
    costs = f(x)
    weighed = weights * costs
    baseline = weighed.detach()[:-1].sum(0) / top.sum(-1)
    advantages = weights * (costs.detach() - baseline)
    gradient = p * -advantages.sum(0).unsqueeze(-1)
    gradient.scatter_add_(-1, chosen, advantages.movedim(0, -1))
    return attach(weighed.sum(0), logits, gradient)


def unordered_set(family: Family, logits: Tensor, f: Cost, k: int = 4) -> Tensor:
    p = _softmax(logits.detach())
    chosen = (p / -torch.rand_like(p).log_()).topk(k, -1)[1]  # an exponential race
    x = torch.zeros(*chosen.shape, p.shape[-1], dtype=p.dtype).scatter_(-1, chosen.unsqueeze(-1), 1).movedim(-2, 0)
    costs = f(x)
    each = p.gather(-1, chosen).movedim(-1, 0)  # [k, *batch]
    # Q(A), that the members of A come first, from Q(A without its first): 2^k sums of at most k terms.
    rest, (members, masses) = 1 - each.sum(0), _subsets(k)
    mass = rest + masses.to(p) @ each.flatten(1)
    first = [torch.ones_like(rest)]
    for subset in range(1, 2**k):
        first.append(
            sum(each[s] * first[subset - (1 << s)] for s in members[subset]) / mass[subset].reshape(rest.shape)
        )
    full = 2**k - 1
    weights = torch.stack([each[s] * first[full - (1 << s)] / first[full] for s in range(k)])
    fixed = costs.detach()
    baseline = torch.stack(
        [
            each[s] * fixed[s]
            + sum(each[t] * fixed[t] * first[full - (1 << s) - (1 << t)] for t in range(k) if t != s)
            / first[full - (1 << s)]
            for s in range(k)
        ]
    )
    advantages = weights * (fixed - baseline)
    gradient = p * -advantages.sum(0).unsqueeze(-1)
    gradient.scatter_add_(-1, chosen, advantages.movedim(0, -1))
    return attach((weights * costs).sum(0), logits, gradient)


def _subsets(k: int) -> tuple[list[list[int]], Tensor]:
    members = [[s for s in range(k) if subset >> s & 1] for subset in range(2**k)]
    return members, torch.tensor([[float(s in subset) for s in range(k)] for subset in members])


# Coupled samples and differences


def _antithetic(p: Tensor, k: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The points of k / 2 pairs, and their differences."""
    u = torch.rand((k // 2, *p.shape), dtype=p.dtype) if u is None else u
    x = torch.empty((k, *p.shape), dtype=p.dtype)
    torch.gt(u, 1 - p, out=x[: k // 2])
    torch.lt(u, p, out=x[k // 2 :])
    return x, x[: k // 2] - x[k // 2 :]


def arm(family: Family, logits: Tensor, f: Cost, k: int = 2) -> Tensor:
    p = logits.detach().sigmoid()
    u = torch.rand((k // 2, *p.shape), dtype=p.dtype)
    costs = f(_antithetic(p, k, u)[0])
    first, second = costs.detach().chunk(2)
    return attach(costs.mean(0), logits, _weighed((first - second) * (2 / k), u.sub_(0.5), family))


def disarm(family: Family, logits: Tensor, f: Cost, k: int = 2) -> Tensor:
    p = logits.detach().sigmoid()
    x, difference = _antithetic(p, k)
    costs = f(x)
    first, second = costs.detach().chunk(2)
    return attach(costs.mean(0), logits, _weighed((first - second) / k, difference, family) * torch.maximum(p, 1 - p))


def _systematic(k: int, like: Tensor) -> Tensor:
    ranks = torch.rand((*like.shape, k), dtype=like.dtype).argsort(-1).movedim(-1, 0)
    return (ranks + torch.rand_like(like)) / k


def _decorrelation(k: int, q: Tensor) -> Tensor:
    fraction = (k * q).frac()
    return (k - fraction * (1 - fraction) / (k * q * (1 - q))) / (k - 1)


def arms(family: Family, logits: Tensor, f: Cost, k: int = 4) -> Tensor:
    p = logits.detach().sigmoid()
    rare = torch.minimum(p, 1 - p)
    x = ((_systematic(k, p) < rare) ^ (p > 0.5)).to(p.dtype)
    costs = f(x)
    value = costs.mean(0)
    gradient = _weighed((costs.detach() - value.detach()) / (k - 1), x, family) / _decorrelation(k, rare)
    return attach(value, logits, gradient)


def carms(family: Family, logits: Tensor, f: Cost, k: int = 4) -> Tensor:
    p, order = _softmax(logits.detach()).sort(-1)
    beta = (p / p.flip(-1).cumsum(-1).flip(-1))[..., :-1]
    on = F.pad(_systematic(k, beta) < beta, (0, 1), value=True)
    sorted_x = on & ((on.cumsum(-1)) == 1)
    x = torch.zeros((k, *p.shape), dtype=p.dtype)
    x.scatter_(-1, order.expand(x.shape), sorted_x.to(p.dtype))
    costs = f(x)
    value = costs.mean(0)
    number = sorted_x.sum(0).to(p.dtype)
    total = _weighed((costs - value).detach(), sorted_x.to(p.dtype), family)
    decorrelation = _decorrelation(k, beta)
    passing = F.pad(((1 - beta) / (1 - decorrelation * beta)).cumprod(-1)[..., :-1], (1, 0), value=1.0)
    weight = F.pad(passing / decorrelation, (0, 1))
    after_number, after_total = k - number.cumsum(-1), total.sum(-1, keepdim=True) - total.cumsum(-1)
    weighed_number, weighed_total = weight * number, weight * total
    later = weighed_total * after_number - weighed_number * after_total
    before_number = weighed_number.cumsum(-1) - weighed_number
    before_total = weighed_total.cumsum(-1) - weighed_total
    gradient = (later + total * before_number - number * before_total) / (k * (k - 1))
    return attach(value, logits, torch.zeros_like(p).scatter_(-1, order, gradient), family)


def _rare_rates(p: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rarer value of each bit, the rate at which it moves there, and which way that is."""
    upward = p <= 0.5
    rarer = upward.to(p.dtype)
    return rarer, torch.where(x == rarer, 0.0, torch.where(upward, p, 1 - p)), 2 * rarer - 1


def coupled_perturbation(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = logits.detach().sigmoid()
    x = _bits_sample(p, k)
    rarer, rates, direction = _rare_rates(p, x)
    upto = rates.cumsum(-1)
    total = upto[..., -1:]
    chosen = torch.searchsorted(upto, torch.rand_like(total) * total, right=True).clamp_max_(x.shape[-1] - 1)
    to = rarer.expand_as(x).gather(-1, chosen)
    moves = total > 0
    with torch.no_grad():
        moved = f(x.clone().scatter_(-1, chosen, torch.where(moves, to, x.gather(-1, chosen))))
    costs = f(x)
    rise = total * (moved - costs.detach()).unsqueeze(-1)
    gradient = torch.zeros_like(x).scatter_(-1, chosen, rise).mean(0) * direction
    return attach(costs.mean(0), logits, gradient)


def _rises(f: Cost, x: Tensor, changed: Tensor, costs: Tensor) -> Tensor:
    """How much more it costs to change one coordinate: [k, *batch, event]."""
    size = x.shape[-1]
    probes = x.expand(size, *x.shape).clone()
    probes.diagonal(dim1=0, dim2=-1).copy_(changed)
    with torch.no_grad():
        rises = f(probes.flatten(0, 1)).reshape(size, *costs.shape) - costs.detach()
    return rises.movedim(0, -1)


def go_gradient(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = logits.detach().sigmoid()
    x = _bits_sample(p, k)
    rarer, rates, direction = _rare_rates(p, x)
    costs = f(x)
    return attach(costs.mean(0), logits, (rates * _rises(f, x, rarer.expand_as(x), costs)).mean(0) * direction)


def local_expectation(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = family.probs(logits.detach())
    x = family.sample(p, k)
    costs = f(x)
    if family is BITS:
        gradient = (_rises(f, x, 1 - x, costs) * (1 - 2 * x)).mean(0) * (p - p * p)
        return attach(costs.mean(0), logits, gradient)
    variables, classes = x.shape[-2:]
    place = x.argmax(-1)  # [k, *batch, variables]
    shifted = (place.unsqueeze(-1) + torch.arange(1, classes)) % classes  # [..., classes - 1]
    probes = x.expand(variables, classes - 1, *x.shape).clone()
    states = torch.zeros(*shifted.shape, classes, dtype=x.dtype).scatter_(-1, shifted.unsqueeze(-1), 1)
    probes.diagonal(dim1=0, dim2=-2).copy_(states.movedim(-2, 0).movedim(-2, -1))
    with torch.no_grad():
        rises = f(probes.flatten(0, 2)).reshape(variables, classes - 1, *costs.shape) - costs.detach()
    by_class = torch.zeros_like(x).scatter_(-1, shifted, rises.movedim((0, 1), (-2, -1)))
    return attach(costs.mean(0), logits, _through_mean(by_class.mean(0), p, family), family)


def measure_valued(family: Family, mean: Tensor, f: Cost, k: int = 1) -> Tensor:
    fixed = mean.detach()
    x = torch.randn((k, *mean.shape), dtype=mean.dtype).add_(fixed)
    w = _uniform(x.shape, x).log_().mul_(-2).sqrt_()
    size = x.shape[-1]
    probes = x.expand(2, size, *x.shape).clone()
    probes[0].diagonal(dim1=0, dim2=-1).copy_(fixed + w)
    probes[1].diagonal(dim1=0, dim2=-1).copy_(fixed - w)
    costs = f(x)
    with torch.no_grad():
        above, below = f(probes.flatten(0, 2)).reshape(2, size, *costs.shape)
    return attach(costs.mean(0), mean, (above - below).mean(1).movedim(0, -1) / math.sqrt(2 * math.pi))


def enumerate_all(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    classes = logits.shape[-1]
    states = torch.eye(classes, dtype=logits.dtype).reshape(classes, *(1,) * (logits.dim() - 1), classes)
    return (_softmax(logits).movedim(-1, 0) * f(states.expand(classes, *logits.shape))).sum(0)


# Pathwise and multi-sample


def pathwise(family: Family, mean: Tensor, f: Cost, k: int = 1) -> Tensor:
    return f(mean + torch.randn((k, *mean.shape), dtype=mean.dtype)).mean(0)


_LOG_NORMAL = 0.5 * math.log(2 * math.pi)


def _normal(mean: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """ε, the attached points, and their log-probability, which is a constant for φ."""
    epsilon = torch.randn((k, *mean.shape), dtype=mean.dtype)
    return epsilon, mean + epsilon, epsilon.square().sum(-1) * -0.5 - mean.shape[-1] * _LOG_NORMAL


def sticking_the_landing(family: Family, mean: Tensor, f: Cost, k: int = 1) -> Tensor:
    epsilon, z, log_q = _normal(mean, k)
    return attach((f(z) - log_q).mean(0), mean, epsilon.mean(0))


def importance_weighted(family: Family, mean: Tensor, f: Cost, k: int = 8) -> Tensor:
    _, z, log_q = _normal(mean, k)
    return (f(z) - log_q).logsumexp(0) - math.log(k)


def doubly_reparameterized(family: Family, mean: Tensor, f: Cost, k: int = 8) -> Tensor:
    epsilon, z, log_q = _normal(mean, k)
    log_weights = f(z) - log_q
    share = log_weights.detach().softmax(0).unsqueeze(-1)
    if z.requires_grad:
        z.register_hook(share.mul)
    return attach(log_weights.logsumexp(0) - math.log(k), mean, (share.square() * epsilon).sum(0))


def _log_prob(family: Family, p: Tensor, logits: Tensor, x: Tensor) -> Tensor:
    fixed = logits.detach()
    if family is BITS:
        return (x * fixed).sum(-1) - F.softplus(fixed).sum(-1)
    return (x * p.log()).sum(family.event)


def vimco(family: Family, logits: Tensor, f: Cost, k: int = 8) -> Tensor:
    p = family.probs(logits.detach())
    x = family.sample(p, k)
    log_weights = f(x) - _log_prob(family, p, logits, x)
    total = log_weights.logsumexp(0)
    fixed = log_weights.detach()
    swapped = fixed.expand(k, *fixed.shape).clone()
    swapped.diagonal(dim1=0, dim2=1).copy_(((fixed.sum(0) - fixed) / (k - 1)).movedim(0, -1))
    weights = total.detach() - swapped.logsumexp(1) - (fixed - total.detach()).exp()
    return attach(total - math.log(k), logits, _scored(weights, x, p, family), family)


def reweighted_wake_sleep(family: Family, logits: Tensor, f: Cost, k: int = 8) -> Tensor:
    p = family.probs(logits.detach())
    x = family.sample(p, k)
    log_weights = f(x) - _log_prob(family, p, logits, x)
    total = log_weights.logsumexp(0)
    share = (log_weights - total).detach().exp()
    return attach(total - math.log(k), logits, _weighed(share, x, family) - p, family)


# Relaxations and straight-through


def gumbel_softmax(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    return f(family.probs(torch.add(family.noise(logits, k).mul_(2), logits, alpha=2))).mean(0)


def straight_through_gumbel(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    scores = torch.add(family.noise(logits, k).mul_(2), logits, alpha=2)
    return _through(family, family.harden(scores.detach()), family.probs(scores), f)


def _through(family: Family, hard: Tensor, soft: Tensor, f: Cost) -> Tensor:
    return f(hard + (soft - soft.detach())).mean(0)


def straight_through(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    p = family.probs(logits)
    return _through(family, family.sample(p.detach(), k), p, f)


def reinmax(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    """2 J(halfway) - J(p) / 2, with J(m) the derivative of a softmax that is m."""
    fixed = logits.detach()
    p = family.probs(fixed)
    x = family.sample(p, k)
    halfway, step = (x + p) / 2, logits - fixed
    if family is BITS:
        slope = 2 * (halfway - halfway * halfway) - (p - p * p) / 2
        return f(x + slope * step).mean(0)
    return f(x + 2 * _through_mean(step, halfway, family) - _through_mean(step, p, family) / 2).mean(0)


def decoupled_gumbel_softmax(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    scores = family.noise(logits, k) + logits
    return _through(family, family.harden(scores.detach()), family.probs(scores), f)


def gapped_straight_through(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    fixed = logits.detach()
    x = family.sample(family.probs(fixed), k)
    if family is BITS:
        sign = 2 * x - 1
        shift = (1 - sign * fixed).relu_() * sign
    else:
        gap = fixed - fixed.amax(-1, keepdim=True)
        shift = torch.where(x > 0, -gap, -(gap + 1).relu_())
    return _through(family, x, family.probs(logits + shift), f)


def gumbel_rao(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    fixed = logits.detach()
    x = family.sample(family.probs(fixed), k)
    z = _conditional(family, fixed, x.expand(10, *x.shape))
    soft = family.probs(torch.add(z.sub_(fixed).mul_(2), logits, alpha=2)).mean(0)
    return _through(family, x, soft, f)


def hard_concrete(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    soft = torch.add(_logistic(logits, k).mul_(1.5), logits, alpha=1.5).sigmoid()
    return f((soft * 1.2 - 0.1).clamp(0, 1)).mean(0)


def gaussian_relaxed_bernoulli(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    scores = torch.special.ndtri(logits.sigmoid()) + torch.randn((k, *logits.shape), dtype=logits.dtype)
    return f((scores * 0.5 + 0.5).clamp(0, 1)).mean(0)


def invertible_gaussian(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    if family is BITS:
        scores = torch.special.ndtri(logits.sigmoid()) + torch.randn((k, *logits.shape), dtype=logits.dtype)
        return f((scores / 0.3).sigmoid()).mean(0)
    p = _softmax(logits)
    beta = (p / p.flip(-1).cumsum(-1).flip(-1))[..., :-1]
    scores = (torch.special.ndtri(beta) + torch.randn((k, *beta.shape), dtype=p.dtype)) / 0.3
    broken = scores.sigmoid()
    left = F.pad((-scores).sigmoid().cumprod(-1), (1, 0), value=1.0)
    return f(F.pad(broken, (0, 1), value=1.0) * left).mean(0)


def logistic_normal_softmax(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    scale = 2 * 1.702 / math.sqrt(len(family.event))
    noise = torch.randn((k, *logits.shape), dtype=logits.dtype).mul_(scale)
    return f(family.probs(torch.add(noise, logits, alpha=2))).mean(0)


def generalized_gumbel_softmax(family: Family, log_rate: Tensor, f: Cost, k: int = 1) -> Tensor:
    support = torch.arange(32, dtype=log_rate.dtype)
    last = support[:-1]
    log_probs = log_rate.unsqueeze(-1) * last - log_rate.exp().unsqueeze(-1) - torch.lgamma(last + 1)
    rest = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp_min(1e-10).log()
    logits = torch.cat([log_probs, rest], -1)
    weights = torch.add(_gumbel(logits, k).mul_(2), logits, alpha=2).softmax(-1)
    return f(weights @ support).mean(0)


def _conditional(family: Family, logits: Tensor, x: Tensor) -> Tensor:
    """z given x."""
    if family is BITS:
        v, side = _uniform(x.shape, x), 2 * x - 1
        return side * (F.softplus(side * logits + v.log()) - torch.log1p(-v))
    e = _uniform(x.shape, x).log_().neg_()
    top = (e * x).sum(-1, keepdim=True)
    p = _softmax(logits)
    return -torch.where(x > 0, top, e / p + top).log() + logits.logsumexp(-1, keepdim=True)


class REBAR:
    """f at all relaxed points in one call; only what η and the temperature learn by has a graph."""

    def __init__(self, size: int, coupled: bool = False) -> None:
        self.eta = torch.tensor(1.0, requires_grad=True)
        self.log_temperature = torch.tensor(math.log(0.5), requires_grad=True)
        self.coupled = coupled

    def parameters(self) -> list[Tensor]:
        return [self.eta, self.log_temperature]

    def critic(self, relaxed: Tensor, f: Cost) -> Tensor:
        return self.eta * f(relaxed)

    def __call__(self, family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
        fixed = logits.detach()
        p = family.probs(fixed)
        z = family.noise(fixed, k).add_(fixed)
        x = family.harden(z)
        both = z if self.coupled else torch.cat([z, _conditional(family, fixed, x)])
        steepness = (-self.log_temperature).exp()
        relaxed = family.probs(both * steepness)
        c = self.critic(relaxed, f)
        (by_relaxed,) = grad(c.sum(), relaxed, create_graph=True)
        slopes = _through_mean(by_relaxed, relaxed, family) * steepness
        if self.coupled:
            values, path = c, _kept(family, fixed, p, x, z, slopes)
        else:
            values, (free, held) = c[k:], slopes.chunk(2)
            path = free - held + _kept(family, fixed, p, x, both[k:], held)
        costs = f(x)
        gradient = (path + _to(costs.detach() - values, family) * (x - p)).mean(0)
        for parameter, slope in zip(self.parameters(), grad(gradient.square().sum(), self.parameters()), strict=True):
            parameter.grad = slope
        return attach(costs.mean(0), logits, gradient.detach(), family)


def _kept(family: Family, logits: Tensor, p: Tensor, x: Tensor, z: Tensor, slopes: Tensor) -> Tensor:
    """(1 - ∂z/∂φ)ᵀ slopes, for z given x."""
    if family is BITS:
        side = 2 * x - 1
        return (side * (z - logits)).sigmoid().reciprocal() * (-side * logits).sigmoid() * slopes
    weighted = (z - z.amax(-1, keepdim=True)).exp() * slopes
    return weighted - p * weighted.sum(-1, keepdim=True)


class CompiledREBAR(REBAR):
    """REBAR for `torch.compile`, which takes no `torch.autograd.grad`: `torch.func.vjp` in another one."""

    def __call__(self, family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
        fixed = logits.detach()
        p = family.probs(fixed)
        z = family.noise(fixed, k).add_(fixed)
        x = family.harden(z)
        both = z if self.coupled else torch.cat([z, _conditional(family, fixed, x)])
        costs = f(x)
        weights = costs.detach()

        def estimate(eta: Tensor, log_temperature: Tensor) -> Tensor:
            steepness = (-log_temperature).exp()
            relaxed = family.probs(both * steepness)
            c, pull = torch.func.vjp(lambda y: eta * f(y), relaxed)
            slopes = _through_mean(pull(torch.ones_like(c))[0], relaxed, family) * steepness
            values = c if self.coupled else c[k:]
            if self.coupled:
                path = _kept(family, fixed, p, x, z, slopes)
            else:
                free, held = slopes.chunk(2)
                path = free - held + _kept(family, fixed, p, x, both[k:], held)
            return (path + _to(weights - values, family) * (x - p)).mean(0)

        gradient, pull = torch.func.vjp(estimate, *(number.detach() for number in self.parameters()))
        gradient = gradient.detach()
        learned = zip(self.parameters(), pull(2 * gradient), strict=True)
        # Compiled code assigns no `.grad`. Each row has all of this, so the mean over the batch has it once.
        s = sum(number * slope.detach() for number, slope in learned)
        return attach(costs.mean(0), logits, gradient, family) + (s - s.detach())


class RELAX(REBAR):
    def __init__(self, size: int, coupled: bool = False) -> None:
        super().__init__(size, coupled)
        self.quadratic = Quadratic(size)

    def parameters(self) -> list[Tensor]:
        return [*super().parameters(), *self.quadratic.parameters()]

    def critic(self, relaxed: Tensor, f: Cost) -> Tensor:
        return super().critic(relaxed, f) + self.quadratic(relaxed)


class LAX:
    """The critic is quadratic, so its slopes and what it learns by are written out."""

    def __init__(self, size: int) -> None:
        self.quadratic = Quadratic(size)

    def __call__(self, family: Family, mean: Tensor, f: Cost, k: int = 1) -> Tensor:
        epsilon = torch.randn((k, *mean.shape), dtype=mean.dtype)
        x = epsilon + mean.detach()
        costs = f(x)
        with torch.no_grad():
            q = self.quadratic
            waves = q.waves.to(x)
            linear, squares, products = q.linear.to(x), q.squares.to(x), q.products.to(x)
            a, b, both = x @ waves, x.square() @ waves, products + products.T
            c = q.constant + a @ linear + b @ squares + (a @ products * a).sum(-1)
            slopes = (linear + a @ both) @ waves.T + 2 * x * (waves @ squares)
            gradient = ((costs - c).unsqueeze(-1) * epsilon + slopes).mean(0)
            twice = (2 / k) * gradient
            score = -(twice * epsilon).sum(-1)  # what c counts in the squared gradient, [k, *batch]
            along, along_x = (twice @ waves).expand_as(a), (twice * x) @ waves
            rows, ways = a.flatten(0, -2), along.flatten(0, -2)
            scored = score.flatten()
            q.constant.grad = scored.sum().to(q.constant.dtype)
            q.linear.grad = (scored @ rows + ways.sum(0)).to(q.linear.dtype)
            q.squares.grad = (scored @ b.flatten(0, -2) + 2 * along_x.flatten(0, -2).sum(0)).to(q.squares.dtype)
            outer = (rows * scored.unsqueeze(-1)).T @ rows + ways.T @ rows + rows.T @ ways
            q.products.grad = outer.to(q.products.dtype)
        return attach(costs.mean(0), mean, gradient)


# Perturbed parameters


def evolution_strategies(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    return _perturbed(logits, f, k, torch.randn((k, *logits.shape), dtype=logits.dtype))


def spsa(family: Family, logits: Tensor, f: Cost, k: int = 1) -> Tensor:
    return _perturbed(logits, f, k, torch.rand((k, *logits.shape), dtype=logits.dtype).lt_(0.5).mul_(2).sub_(1))


def _perturbed(logits: Tensor, f: Cost, k: int, direction: Tensor, step: float = 0.1) -> Tensor:
    fixed = logits.detach()
    costs = f(_bits_sample(fixed.sigmoid(), k))
    with torch.no_grad():
        u, moves = torch.rand((k, *fixed.shape), dtype=fixed.dtype), step * direction
        sides = torch.cat([(fixed + moves).sigmoid_().gt_(u), (fixed - moves).sigmoid_().gt_(u)])
        plus, minus = f(sides).chunk(2)
    return attach(costs.mean(0), logits, _weighed((plus - minus) / (2 * step * k), direction, BITS))
