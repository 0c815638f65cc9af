"""The estimators as most people write them by hand in plain PyTorch, the score left to autograd through `log_prob`.

Each takes a distribution of `torch.distributions`, the cost f and the number of samples k, and returns [*batch] for
`.sum().backward()`: the gradient is the estimator's, the value has the score terms in it. They evaluate f as often as
the library's estimator of the same name does with its defaults. Those that learn are classes: calling them leaves the
gradient of their own parameters in `.grad`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad
from torch.distributions import (
    Bernoulli,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
)

Cost = Callable[[Tensor], Tensor]


def bits(logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1)


def one_hots(logits: Tensor) -> Distribution:
    return Independent(OneHotCategorical(logits=logits), 1)


def outcomes(logits: Tensor) -> Distribution:
    return OneHotCategorical(logits=logits)


def normals(mean: Tensor) -> Distribution:
    return Independent(Normal(mean, 1.0), 1)


def counts(log_rate: Tensor) -> Distribution:
    return Independent(Poisson(log_rate.exp()), 1)


# Score function


def score_function(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    x = q.sample((k,))
    costs = f(x)
    return (costs + costs.detach() * q.log_prob(x)).mean(0)


def leave_one_out(q: Distribution, f: Cost, k: int = 2) -> Tensor:
    x = q.sample((k,))
    costs = f(x)
    return _scored(costs, costs - (costs.sum(0) - costs) / (k - 1), q.log_prob(x))


def muprop(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    mean = q.mean.detach().unsqueeze(0).requires_grad_()
    at_mean = f(mean)
    (slope,) = grad(at_mean.sum(), mean)
    x = q.sample((k,))
    costs = f(x)
    linear = at_mean.detach() + _total(slope * (x - mean.detach()), q)
    moved = _total(slope.squeeze(0) * q.mean, q)
    return _scored(costs, costs - linear, q.log_prob(x)) + moved


class DoubleCV:
    def __init__(self, size: int) -> None:
        self.coefficient = torch.tensor(0.0, requires_grad=True)

    def __call__(self, q: Distribution, f: Cost, k: int = 2) -> Tensor:
        x = q.sample((k,))
        costs = f(x)
        slopes = _slopes(f, x)
        logits = _logits(q).detach().requires_grad_()
        p = _like(q, logits)
        mean = p.mean
        tangents = _total((slopes.sum(0) - slopes) / (k - 1) * (x - mean.detach()), q)
        h = costs.detach() - self.coefficient * tangents
        (scores,) = grad(
            _expanded_log_prob(q, x, copies := logits.detach().expand_as(x).requires_grad_()).sum(), copies
        )
        (path,) = grad(_total(slopes.mean(0) * mean, q).sum(), logits)
        advantage = _to(h - (h.sum(0) - h) / (k - 1), scores)
        gradient = (advantage * scores).mean(0) + self.coefficient * path
        (self.coefficient.grad,) = grad(gradient.square().sum(), self.coefficient)
        return _with_gradient(costs.mean(0), q, gradient)


class RODEO:
    def __init__(self, size: int) -> None:
        self.alpha, self.beta = (torch.tensor(0.0, requires_grad=True) for _ in range(2))
        self.network = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), last := nn.Linear(8, 1))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def __call__(self, q: Distribution, f: Cost, k: int = 2) -> Tensor:
        x = q.sample((k,))
        costs = f(x)
        slopes = _slopes(f, x)
        (scores,) = grad(
            _expanded_log_prob(q, x, copies := _logits(q).detach().expand_as(x).requires_grad_()).sum(), copies
        )
        here, changed = zip(*(self._h(x, costs.detach(), slopes, i) for i in range(k)), strict=True)
        here, changed = torch.stack(here), torch.stack(changed)  # [k, *batch] and [k, *batch, *event]
        mean = q.mean.detach()
        if isinstance(q.base_dist, Bernoulli):
            stein = _total(torch.where(x > 0, 1 - mean, mean) * (changed - _to(here, changed)), q)
            vector = (_to(stein, changed) - changed) * scores
        else:
            resampled = (mean * changed).sum(-1, keepdim=True)
            stein = (resampled.squeeze(-1) - here.unsqueeze(-1)).sum(-1)
            vector = _to(stein, changed) * scores + mean * changed - resampled * x
        h = costs.detach() + self.alpha * stein
        advantage = costs.detach() - (h.sum(0) - h) / (k - 1)
        gradient = (_to(advantage, scores) * scores + self.beta * vector).mean(0)
        own = [self.alpha, self.beta, *self.network.parameters()]
        for parameter, slope in zip(own, grad(gradient.square().sum(), own), strict=True):
            parameter.grad = slope
        return _with_gradient(costs.mean(0), q, gradient)

    def _h(self, x: Tensor, costs: Tensor, slopes: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The learned function of sample i, at it and with each variable changed, averaged over the other samples."""
        others = [j for j in range(len(x)) if j != i]
        slope, cost = slopes[others], costs[others]
        event = tuple(range(cost.dim(), slope.dim()))
        tangent = (slope * (x[i] - x[others])).sum(event)
        step = slope * (1 - 2 * x[i]) if slope.dim() == 3 else slope - (slope * x[i]).sum(-1, keepdim=True)
        moved = _to(tangent, step) + step
        return self._net(cost, tangent).mean(0), self._net(_to(cost, step).expand_as(moved), moved).mean(0)

    def _net(self, cost: Tensor, tangent: Tensor) -> Tensor:
        inputs = torch.stack((cost, tangent), -1)
        return tangent + self.network(inputs.to(self.alpha.dtype)).squeeze(-1)


def bitflip(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    x = q.sample((k,))
    chosen = F.one_hot(torch.randint(x.shape[-1], x.shape[:-1]), x.shape[-1])
    with torch.no_grad():
        flipped = f(torch.where(chosen > 0, 1 - x, x))
    costs = f(x)
    rise = (flipped - costs.detach()).unsqueeze(-1) * (1 - 2 * x)
    p = q.mean.unsqueeze(0)
    terms = (x.shape[-1] * chosen * rise * p).sum(-1).mean(0)
    return costs.mean(0) + terms


def ugc(q: Distribution, f: Cost, k: int = 2) -> Tensor:
    logits = _logits(q)
    p = logits.sigmoid()
    u = torch.rand(k // 2, *logits.shape)
    x, y = (u > 1 - p).to(p.dtype), (u < p).to(p.dtype)
    both = f(torch.cat([x, y]))
    first, second = both.detach().chunk(2)
    pair = (first - second).unsqueeze(-1) / 2 * (x - y) * logits.abs().sigmoid()
    chosen = F.one_hot(torch.randint(x.shape[-1], x.shape[:-1]), x.shape[-1])
    with torch.no_grad():
        flipped = f(torch.where(chosen > 0, 1 - x, x))
    single = x.shape[-1] * chosen * p * (1 - p) * (flipped - first).unsqueeze(-1) * (1 - 2 * x)
    edge = torch.minimum(p, 1 - p) < 1 / (2 * x.shape[-1])
    return _with_gradient(both.mean(0), q, torch.where(edge, single, pair).mean(0))


def rao_blackwellized(q: Distribution, f: Cost, k: int = 4) -> Tensor:
    """The k - 1 most probable outcomes summed, one of the rest drawn."""
    log_probs = q.logits
    classes = log_probs.shape[-1]
    top = log_probs.topk(k - 1, -1)[1]
    rest = log_probs.detach().scatter(-1, top, -math.inf)
    drawn = OneHotCategorical(logits=rest).sample().argmax(-1, keepdim=True)
    index = torch.cat([top, drawn], -1).movedim(-1, 0)  # [k, *batch]
    x = F.one_hot(index, classes).to(log_probs.dtype)
    weights = torch.cat([log_probs.detach().exp().gather(-1, top).movedim(-1, 0), rest.exp().sum(-1).unsqueeze(0)])
    costs = f(x)
    baseline = (weights[:-1] * costs.detach()[:-1]).sum(0) / weights[:-1].sum(0)
    surrogate = weights * (costs.detach() - baseline) * q.log_prob(x)
    return ((weights * costs) + surrogate).sum(0)


def unordered_set(q: Distribution, f: Cost, k: int = 4) -> Tensor:
    """The probability of the set and of its parts by summing over the orders, as the paper does."""
    log_probs = q.logits
    gumbel = -(-torch.rand_like(log_probs).log()).log()
    index = (log_probs.detach() + gumbel).topk(k, -1)[1].movedim(-1, 0)  # [k, *batch]
    x = F.one_hot(index, log_probs.shape[-1]).to(log_probs.dtype)
    costs = f(x)
    log_p = q.log_prob(x)  # [k, *batch]
    p = log_p.detach().exp()
    whole = _set_probability(p, list(range(k)), ())
    without = torch.stack([_set_probability(p, [j for j in range(k) if j != i], (i,)) for i in range(k)])
    weights = p * without / whole
    baseline = torch.stack(
        [
            sum(
                p[j]
                * costs.detach()[j]
                * (1 if j == i else _set_probability(p, [n for n in range(k) if n not in (i, j)], (i, j)) / without[i])
                for j in range(k)
            )
            for i in range(k)
        ]
    )
    surrogate = weights * (costs.detach() - baseline) * log_p
    return (weights * costs + surrogate).sum(0)


def _set_probability(p: Tensor, members: list[int], gone: tuple[int, ...]) -> Tensor:
    """The probability that the members are drawn, in any order, before anything but those that are gone."""
    left = 1 - p[list(gone)].sum(0)
    if not members:
        return torch.ones_like(left)
    return sum(p[m] / left * _set_probability(p, [n for n in members if n != m], (*gone, m)) for m in members)  # type: ignore[return-value]


# Coupled samples and differences


def arm(q: Distribution, f: Cost, k: int = 2) -> Tensor:
    p = q.mean
    u = torch.rand(k // 2, *p.shape)
    costs = f(torch.cat([(u > 1 - p), (u < p)]).to(p.dtype))
    first, second = costs.detach().chunk(2)
    return _with_gradient(costs.mean(0), q, ((first - second).unsqueeze(-1) * (u - 0.5)).mean(0))


def disarm(q: Distribution, f: Cost, k: int = 2) -> Tensor:
    p = q.mean
    u = torch.rand(k // 2, *p.shape)
    x, y = (u > 1 - p).to(p.dtype), (u < p).to(p.dtype)
    costs = f(torch.cat([x, y]))
    first, second = costs.detach().chunk(2)
    sign = (x - y) * torch.maximum(p, 1 - p).detach()
    return _with_gradient(costs.mean(0), q, ((first - second).unsqueeze(-1) / 2 * sign).mean(0))


def arms(q: Distribution, f: Cost, k: int = 4) -> Tensor:
    p = q.mean
    rare = torch.minimum(p, 1 - p).detach()
    u = (torch.rand(k, *p.shape).argsort(0) + torch.rand(p.shape)) / k
    x = torch.where(p > 0.5, u >= rare, u < rare).to(p.dtype)
    costs = f(x)
    fraction = (k * rare).frac()
    decorrelation = (k - fraction * (1 - fraction) / (k * rare * (1 - rare))) / (k - 1)
    weights = (costs.detach() - costs.detach().mean(0)) / (k - 1)
    log_probs = q.base_dist.log_prob(x)  # each bit has its own factor
    terms = (weights.unsqueeze(-1) * log_probs / decorrelation).sum((0, -1))
    return costs.mean(0) + terms


def carms(q: Distribution, f: Cost, k: int = 4) -> Tensor:
    """Sticks in ascending order of probability; a pair's factor from the loop over its common sticks."""
    logits = _logits(q)
    p, order = logits.detach().softmax(-1).sort(-1)
    classes = p.shape[-1]
    left = p.flip(-1).cumsum(-1).flip(-1)
    beta = (p / left)[..., :-1]
    u = (torch.rand(k, *beta.shape).argsort(0) + torch.rand(beta.shape)) / k
    place = F.pad((u < beta).to(torch.uint8), (0, 1), value=1).argmax(-1)  # [k, *batch, *variables]
    x = torch.zeros(*place.shape, classes).scatter(-1, order.expand(k, *order.shape).gather(-1, place.unsqueeze(-1)), 1)
    x = x.to(logits.dtype)
    costs = f(x)
    fraction = (k * beta).frac()
    decorrelation = (k - fraction * (1 - fraction) / (k * beta * (1 - beta))) / (k - 1)
    passing = (1 - beta) / (1 - decorrelation * beta)
    factor = F.pad(F.pad(passing, (1, 0), value=1.0).cumprod(-1)[..., :-1] / decorrelation, (0, 1))
    gradient = torch.zeros_like(logits)
    for i in range(k):
        for j in range(i):
            first = torch.minimum(place[i], place[j]).unsqueeze(-1)
            ratio = factor.gather(-1, first)  # [*batch, *variables, 1]
            rise = _to((costs[i] - costs[j]).detach(), ratio)
            gradient += rise * ratio * (x[i] - x[j]) / (k * (k - 1))
    return _with_gradient(costs.mean(0), q, gradient)


def coupled_perturbation(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    """One bit moved to its rarer value, chosen by the rate at which it would."""
    p = q.mean
    x = q.sample((k,))
    rarer = (p < 0.5).to(p.dtype)
    rates = torch.where(x == rarer, 0.0, torch.minimum(p, 1 - p))  # [k, *batch, event]
    total = rates.sum(-1, keepdim=True)
    stays = total == 0
    chosen = OneHotCategorical(probs=torch.where(stays, 1.0, rates).detach()).sample().bool() & ~stays
    with torch.no_grad():
        rise = f(torch.where(chosen, rarer, x))
    costs = f(x)
    rise = (rise - costs.detach()).unsqueeze(-1)
    return _with_gradient(costs.mean(0), q, (chosen * total * rise * (2 * rarer - 1)).mean(0))


def go_gradient(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    """The cost of moving each bit to its rarer value."""
    p = q.mean
    x = q.sample((k,))
    rarer = (p < 0.5).to(p.dtype)
    costs = f(x)
    rates = torch.where(x == rarer, 0.0, torch.minimum(p, 1 - p))
    rises = _rises(f, x, costs, rarer.expand_as(x))
    return _with_gradient(costs.mean(0), q, (rates * rises * (2 * rarer - 1)).mean(0))


def local_expectation(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    if isinstance(q.base_dist, Bernoulli):
        x = q.sample((k,))
        costs = f(x)
        terms = (_rises(f, x, costs, 1 - x) * (1 - 2 * x) * q.mean).sum(-1).mean(0)
        return costs.mean(0) + terms
    x = q.sample((k,))
    costs = f(x)
    variables, classes = x.shape[-2:]
    states = torch.eye(classes, dtype=x.dtype)
    probes = []
    for v in range(variables):
        for shift in range(1, classes):
            changed = x.clone()
            changed[..., v, :] = states[(x[..., v, :].argmax(-1) + shift) % classes]
            probes.append(changed)
    with torch.no_grad():
        rises = f(torch.cat(probes)).reshape(variables, classes - 1, *costs.shape) - costs
    shifts = (torch.arange(classes) - x.argmax(-1, keepdim=True)) % classes  # [k, *batch, variables, classes]
    by_shift = F.pad(rises.movedim((0, 1), (-2, -1)), (1, 0))  # [k, *batch, variables, classes]
    terms = (q.mean * by_shift.gather(-1, shifts)).sum((-2, -1)).mean(0)
    return costs.mean(0) + terms


def measure_valued(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    """The mean of a normal distribution: two Weibull draws for each coordinate, coupled."""
    x = q.sample((k,))
    costs = f(x)
    w = (-2 * torch.rand_like(x).log()).sqrt()
    above, below = (_rises(f, x, costs, q.mean.detach() + side * w) for side in (1, -1))
    return _with_gradient(costs.mean(0), q, ((above - below) / math.sqrt(2 * math.pi)).mean(0))


def enumerate_all(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    states = q.enumerate_support()
    return (q.log_prob(states).exp() * f(states)).sum(0)


# Pathwise and multi-sample


def pathwise(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    return f(q.rsample((k,))).mean(0)


def sticking_the_landing(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    z = q.rsample((k,))
    return (f(z) - normals(q.mean.detach()).log_prob(z)).mean(0)


def importance_weighted(q: Distribution, f: Cost, k: int = 8) -> Tensor:
    z = q.rsample((k,))
    return (f(z) - q.log_prob(z)).logsumexp(0) - math.log(k)


def doubly_reparameterized(q: Distribution, f: Cost, k: int = 8) -> Tensor:
    """The samples' gradient is turned from w̃ into w̃² by a hook."""
    z = q.rsample((k,))
    log_weights = f(z) - normals(q.mean.detach()).log_prob(z)
    share = log_weights.detach().softmax(0).unsqueeze(-1)
    if z.requires_grad:
        z.register_hook(lambda slope: share * slope)
    return log_weights.logsumexp(0) - math.log(k)


def vimco(q: Distribution, f: Cost, k: int = 8) -> Tensor:
    x = q.sample((k,))
    log_q = q.log_prob(x)
    log_weights = f(x) - log_q
    bound = log_weights.logsumexp(0) - math.log(k)
    fixed = log_weights.detach()
    others = (fixed.sum(0) - fixed) / (k - 1)
    swapped = fixed.unsqueeze(0).expand(k, *fixed.shape).clone()
    for i in range(k):
        swapped[i, i] = others[i]
    baseline = swapped.logsumexp(1) - math.log(k)
    score = ((bound.detach() - baseline) * log_q).sum(0)
    return bound + score


def reweighted_wake_sleep(q: Distribution, f: Cost, k: int = 8) -> Tensor:
    x = q.sample((k,))
    log_q = q.log_prob(x)
    log_weights = f(x) - log_q.detach()
    wake = (log_weights.detach().softmax(0) * log_q).sum(0)
    return log_weights.logsumexp(0) - math.log(k) + wake


# Relaxations and straight-through


def gumbel_softmax(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    return f(_relaxed(q, 0.5).rsample((k,))).mean(0)


def straight_through_gumbel(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    soft = _relaxed(q, 0.5).rsample((k,))
    return f(_hard(soft, q) + soft - soft.detach()).mean(0)


def straight_through(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    return f(q.sample((k,)) + q.mean - q.mean.detach()).mean(0)


def reinmax(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    x, p, logits = q.sample((k,)), q.mean, _logits(q)
    soften = _soften(q)
    halfway = ((x + p) / 2).detach()
    scores = torch.logit(halfway) if isinstance(q.base_dist, Bernoulli) else halfway.log()
    middle = soften((scores - logits).detach() + logits)
    soft = 2 * middle - p / 2
    return f(x + soft - soft.detach()).mean(0)


def decoupled_gumbel_softmax(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    soft = _relaxed(q, 1.0).rsample((k,))
    return f(_hard(soft, q) + soft - soft.detach()).mean(0)


def gapped_straight_through(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    x, logits = q.sample((k,)), _logits(q)
    if isinstance(q.base_dist, Bernoulli):
        sign = 2 * x - 1
        shift = torch.where(sign * logits >= 1, 0.0, sign - logits)
    else:
        top = logits.max(-1, keepdim=True)[0]
        shift = torch.where(x > 0, top - logits, -F.relu(logits - top + 1))
    soft = _soften(q)(logits + shift.detach())
    return f(x + soft - soft.detach()).mean(0)


def gumbel_rao(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    x, logits = q.sample((k,)), _logits(q)
    z = _conditional(q, x.expand(10, *x.shape)).detach()
    soft = _soften(q)((z + logits - logits.detach()) / 0.5).mean(0)
    return f(x + soft - soft.detach()).mean(0)


def hard_concrete(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    """Stretched to (-0.1, 1.1), with 1/2 where logits + noise is 0."""
    logits = _logits(q)
    u = torch.rand(k, *logits.shape).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((logits + u.log() - (1 - u).log()) * 1.5)
    return f((soft * 1.2 - 0.1).clamp(0, 1)).mean(0)


def gaussian_relaxed_bernoulli(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    mean = Normal(0.0, 1.0).icdf(q.mean)
    return f((0.5 + Normal(mean, 1.0).rsample((k,)) / 2).clamp(0, 1)).mean(0)


def invertible_gaussian(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    if isinstance(q.base_dist, Bernoulli):
        return f((Normal(Normal(0.0, 1.0).icdf(q.mean), 1.0).rsample((k,)) / 0.3).sigmoid()).mean(0)
    p = q.mean
    beta = p[..., :-1] / p.flip(-1).cumsum(-1).flip(-1)[..., :-1]
    broken = (Normal(Normal(0.0, 1.0).icdf(beta), 1.0).rsample((k,)) / 0.3).sigmoid()
    return f(F.pad(broken, (0, 1), value=1.0) * F.pad((1 - broken).cumprod(-1), (1, 0), value=1.0)).mean(0)


def logistic_normal_softmax(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    scale = 1.702 if isinstance(q.base_dist, Bernoulli) else 1.702 / math.sqrt(2)
    return f(_soften(q)(Normal(_logits(q), scale).rsample((k,)) / 0.5)).mean(0)


def generalized_gumbel_softmax(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    support = torch.arange(32, dtype=q.mean.dtype)
    log_probs = q.base_dist.log_prob(support[:-1].reshape(-1, *(1,) * q.mean.dim()))
    last = (1 - log_probs.exp().sum(0)).clamp_min(1e-10).log()
    logits = torch.cat([log_probs, last.unsqueeze(0)]).movedim(0, -1)
    weights = RelaxedOneHotCategorical(torch.tensor(0.5), logits=logits).rsample((k,))
    return f((weights * support).sum(-1)).mean(0)


class REBAR:
    """z and z̃ with their graphs, and η and the temperature by the squared gradient, as in the published training
    loops."""

    def __init__(self, size: int) -> None:
        self.eta = torch.tensor(1.0, requires_grad=True)
        self.log_temperature = torch.tensor(math.log(0.5), requires_grad=True)

    def parameters(self) -> list[Tensor]:
        return [self.eta, self.log_temperature]

    def critic(self, relaxed: Tensor, f: Cost) -> Tensor:
        return self.eta * f(relaxed)

    def __call__(self, q: Distribution, f: Cost, k: int = 1) -> Tensor:
        logits = _logits(q).detach().requires_grad_()
        p = _like(q, logits)
        z = logits + _noise(q, k)
        x = _hard(z.detach(), q, 0.0)
        conditional = _conditional(p, x)
        soften, temperature = _soften(q), self.log_temperature.exp()
        costs = f(x)
        relaxed = self.critic(soften(z / temperature), f)
        conditioned = self.critic(soften(conditional / temperature), f)
        copies = logits.detach().expand_as(x).requires_grad_()
        (scores,) = grad(_expanded_log_prob(q, x, copies).sum(), copies)
        (path,) = grad((relaxed - conditioned).mean(0).sum(), logits, create_graph=True)
        gradient = (_to(costs.detach() - conditioned, scores) * scores).mean(0) + path
        for parameter, slope in zip(self.parameters(), grad(gradient.square().sum(), self.parameters()), strict=True):
            parameter.grad = slope
        return _with_gradient(costs.mean(0), q, gradient)


class RELAX(REBAR):
    """REBAR's critic and a quadratic function of the first eight cosine modes of the relaxed point."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.quadratic = Quadratic(size)

    def parameters(self) -> list[Tensor]:
        return [*super().parameters(), *self.quadratic.parameters()]

    def critic(self, relaxed: Tensor, f: Cost) -> Tensor:
        return super().critic(relaxed, f) + self.quadratic(relaxed)


class LAX:
    def __init__(self, size: int) -> None:
        self.quadratic = Quadratic(size)

    def __call__(self, q: Distribution, f: Cost, k: int = 1) -> Tensor:
        mean = q.mean.detach().expand(k, *q.mean.shape).requires_grad_()
        z = normals(mean).rsample()
        costs = f(z.detach())
        c = self.quadratic(z)
        (score,) = grad(normals(mean).log_prob(z.detach()).sum(), mean)
        (path,) = grad(c.sum(), mean, create_graph=True)
        gradient = ((costs.detach() - c).unsqueeze(-1) * score + path).mean(0)
        own = list(self.quadratic.parameters())
        for parameter, slope in zip(own, grad(gradient.square().sum(), own, allow_unused=True), strict=True):
            parameter.grad = slope
        return _with_gradient(costs.mean(0), q, gradient)


class Quadratic(nn.Module):
    """constant + linear and square terms + products of the eight cosine modes, starting at 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        place, frequency = (torch.arange(size) + 0.5) * math.pi / size, torch.arange(8)
        waves = (place[:, None] * frequency).cos() * math.sqrt(2 / size)
        self.register_buffer("waves", torch.where(frequency < size, waves, 0.0))
        self.constant, self.linear = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(8))
        self.squares, self.products = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        a, b = x @ self.waves.to(x), x.square() @ self.waves.to(x)
        linear = a @ self.linear.to(x) + b @ self.squares.to(x)
        return self.constant + linear + (a @ self.products.to(x) * a).sum(-1)


# Perturbed parameters


def evolution_strategies(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    return _perturbed(q, f, k, torch.randn(k, *q.mean.shape, dtype=q.mean.dtype))


def spsa(q: Distribution, f: Cost, k: int = 1) -> Tensor:
    return _perturbed(q, f, k, torch.randint(2, (k, *q.mean.shape)).to(q.mean.dtype) * 2 - 1)


def _perturbed(q: Distribution, f: Cost, k: int, direction: Tensor, step: float = 0.1) -> Tensor:
    """One sample on either side of the logits, of the same uniform numbers."""
    logits = _logits(q)
    costs = f(q.sample((k,)))
    with torch.no_grad():
        u = torch.rand(k, *logits.shape)
        sides = [f((u < torch.sigmoid(logits + s * direction)).to(logits.dtype)) for s in (step, -step)]
    slope = (sides[0] - sides[1]) / (2 * step)
    return _with_gradient(costs.mean(0), q, (slope.unsqueeze(-1) * direction).mean(0))


# What they share


def _logits(q: Distribution) -> Tensor:
    base = q.base_dist if isinstance(q, Independent) else q
    return base.mean if isinstance(base, Normal) else base.logits


def _like(q: Distribution, logits: Tensor) -> Distribution:
    return bits(logits) if isinstance(q.base_dist, Bernoulli) else one_hots(logits)


def _soften(q: Distribution) -> Callable[[Tensor], Tensor]:
    return torch.sigmoid if isinstance(q.base_dist, Bernoulli) else lambda scores: F.softmax(scores, -1)


def _relaxed(q: Distribution, temperature: float) -> Distribution:
    kind = RelaxedBernoulli if isinstance(q.base_dist, Bernoulli) else RelaxedOneHotCategorical
    return Independent(kind(torch.tensor(temperature), logits=q.base_dist.logits), 1)


def _hard(soft: Tensor, q: Distribution, threshold: float = 0.5) -> Tensor:
    if isinstance(q.base_dist, Bernoulli):
        return (soft > threshold).to(soft.dtype)
    return F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)


def _noise(q: Distribution, k: int) -> Tensor:
    logits = _logits(q)
    u = torch.rand(k, *logits.shape, dtype=logits.dtype).clamp(1e-7, 1 - 1e-7)
    return u.log() - (-u).log1p() if isinstance(q.base_dist, Bernoulli) else -(-u.log()).log()


def _conditional(q: Distribution, x: Tensor) -> Tensor:
    """z given x, attached to the logits."""
    logits = _logits(q)
    v = torch.rand_like(x).clamp(1e-7, 1 - 1e-7)
    if isinstance(q.base_dist, Bernoulli):
        above = F.softplus(logits + v.log()) - (-v).log1p()
        below = v.log() - F.softplus((-v).log1p() - logits)
        return torch.where(x > 0, above, below)
    e = -v.log()
    top = -(e * x).sum(-1, keepdim=True).log() + logits.logsumexp(-1, keepdim=True)
    return torch.where(x > 0, top, -(e / logits.exp() + (-top).exp()).log())


def _expanded_log_prob(q: Distribution, x: Tensor, logits: Tensor) -> Tensor:
    return (q if isinstance(q, OneHotCategorical) else _like(q, logits)).log_prob(x)


def _slopes(f: Cost, x: Tensor) -> Tensor:
    points = x.clone().requires_grad_()
    return grad(f(points).sum(), points)[0]


def _rises(f: Cost, x: Tensor, costs: Tensor, changed: Tensor) -> Tensor:
    """How much more it costs to change one coordinate, [k, *batch, event]."""
    own = torch.eye(x.shape[-1], dtype=torch.bool).reshape(-1, *(1,) * (x.dim() - 1), x.shape[-1])
    probes = torch.where(own, changed, x)  # [event, k, *batch, event]
    with torch.no_grad():
        moved = f(probes.flatten(0, 1)).reshape(-1, *costs.shape)
    return (moved - costs.detach()).movedim(0, -1)


def _total(x: Tensor, q: Distribution) -> Tensor:
    return x.sum(tuple(range(-len(q.event_shape), 0)))


def _to(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(*x.shape, *(1,) * (like.dim() - x.dim()))


def _scored(costs: Tensor, advantage: Tensor, log_prob: Tensor) -> Tensor:
    return (costs + advantage.detach() * log_prob).mean(0)


def _with_gradient(value: Tensor, q: Distribution, gradient: Tensor) -> Tensor:
    return value + _total(gradient.detach() * _logits(q), q)
