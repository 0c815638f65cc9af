"""Run by torchrun on each rank: what several ranks find, against what one process finds with all of their samples.

Each case gives the largest difference, or the text of a refusal; they are written to the folder that is named on the
command line.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.nn.parallel import DistributedDataParallel

import sampleprop as sp
from sampleprop import families, noise, parallel
from sampleprop.costs import Group
from sampleprop.estimators.score.score_function import Draw

ROWS, SIZE = 5, 3
Make = Callable[[Tensor], Distribution]
KINDS: dict[str, Make] = {
    "bits": lambda phi: Independent(Bernoulli(logits=phi), 1),
    "normal": lambda phi: Independent(Normal(phi, (phi / 3).exp()), 1),
}


def baselines() -> Iterator[sp.Baseline | None]:
    yield None
    yield sp.Constant(1.5)
    yield sp.MovingAverage(0.7)
    yield sp.LearnedBaseline(nn.Sequential(nn.Linear(SIZE, 1), nn.Flatten(0)))
    yield sp.SelfCritical()
    yield sp.KnownMean(lambda x: 2 * x.sum(-1), lambda dist: 2 * dist.mean.sum(-1))
    yield sp.OptimalCoefficient()
    yield sp.LeaveOneOut()


def f(x: Tensor, theta: Tensor) -> Tensor:
    return 2 + (x * theta).sum(-1) + (x[..., 0] - x[..., 1] * theta[2]).square()


def leaves() -> tuple[Tensor, Tensor]:
    """φ [rows, size] and θ [size], the same on each rank."""
    generator = torch.Generator().manual_seed(7)
    phi = torch.randn(ROWS, SIZE, dtype=torch.float64, generator=generator)
    return phi.requires_grad_(), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)


def derivatives(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((value * torch.arange(1, ROWS + 1)).mean(), inputs, materialize_grads=True))


def everyone() -> distributed.ProcessGroup:
    group = distributed.group.WORLD
    assert group is not None
    return group


def averaged(x: Tensor) -> Tensor:
    return parallel.total(x, everyone()) / distributed.get_world_size()


def largest(mine: list[Tensor], single: list[Tensor]) -> float:
    """The largest difference between the average over the ranks and the single process."""
    return max(float((averaged(a) - b).abs().max()) for a, b in zip(mine, single, strict=True))


def own_noise() -> torch.Generator:
    return parallel.rank_generator(0)


def part(x: Tensor) -> Tensor:
    """This rank's samples."""
    return x.chunk(distributed.get_world_size())[distributed.get_rank()]


def gathered(x: Tensor) -> Tensor:
    """The samples of all ranks."""
    parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, x)
    return torch.cat(parts)


def combined(samples: int | None, baseline: sp.Baseline | None, kind: str, points: Tensor, **more: Any) -> list[Tensor]:
    """The value, the gradients of φ, θ and of what the baseline learns, and the average that it keeps."""
    phi, theta = leaves()
    estimator = sp.ScoreFunction(samples, baseline=copy.deepcopy(baseline)).double()
    dist = KINDS[kind](phi)
    probes = families.recognize(dist).mode().unsqueeze(0) if isinstance(baseline, sp.SelfCritical) else None
    value = estimator.combine(
        dist,
        Draw(points, probes),
        f(points, theta),
        probe_costs=None if probes is None else f(probes, theta),
        context=phi.detach(),
        **more,
    )
    found = [value.detach(), *derivatives(value, [phi, theta, *estimator.parameters()])]
    return [*found, *estimator.buffers()]


def split_draws() -> Iterator[tuple[str, float]]:
    """One draw, combined at once and in parts."""
    everyone = Group(process_group=distributed.group.WORLD)
    for kind, make in KINDS.items():
        for baseline in baselines():
            points = families.recognize(make(leaves()[0].detach())).sample(4, torch.Generator().manual_seed(1))
            single = combined(4, baseline, kind, points)
            yield f"{kind}, {baseline}", largest(combined(2, baseline, kind, part(points), group=everyone), single)
        for samples in (1, None):
            points = families.recognize(make(leaves()[0].detach())).sample(2, torch.Generator().manual_seed(2))
            mine = combined(samples, None, kind, part(points), group=everyone)
            yield f"{kind}, samples={samples} on each rank", largest(mine, combined(2, None, kind, points))


def expectations() -> Iterator[tuple[str, float]]:
    """The whole way through `expect`, with noise of each rank's own."""
    for kind, make in KINDS.items():
        phi, theta = leaves()
        seen: list[Tensor] = []

        def watched(x: Tensor, seen: list[Tensor] = seen, theta: Tensor = theta) -> Tensor:
            seen.append(x)
            return f(x, theta)

        world = distributed.group.WORLD
        generator = own_noise()
        value = sp.expect(watched, make(phi), sp.ScoreFunction(3), generator=generator, process_group=world)
        mine = [value.detach(), *derivatives(value, [phi, theta])]
        points = gathered(seen[0])
        yield f"{kind}, expect", largest(mine, combined(6, None, kind, points))
        yield f"{kind}, expect: equal samples on two ranks", float((points[:3] == points[3:]).all())


def dropped_costs() -> Iterator[tuple[str, float]]:
    """Costs left out, more on one rank than on the other."""
    for kind, make in KINDS.items():
        for baseline in (None, sp.LeaveOneOut()):
            phi, theta = leaves()
            seen: list[Tensor] = []

            def holes(x: Tensor, seen: list[Tensor] = seen, theta: Tensor = theta) -> Tensor:
                seen.append(x)
                return f(x, theta) + (x[..., 1] - x[..., 2]).clamp_max(0.4).sub(0.4).abs().log() * 0.0

            estimator = sp.ScoreFunction(16, baseline=copy.deepcopy(baseline)).double()
            world = distributed.group.WORLD
            value = sp.expect(holes, make(phi), estimator, generator=own_noise(), nonfinite="drop", process_group=world)
            mine = [value.detach(), *derivatives(value, [phi, theta, *estimator.parameters()])]
            points = gathered(seen[0])
            keep = holes(points).isfinite()
            kept = keep[:16].sum(0) != keep[16:].sum(0)
            single = combined(32, baseline, kind, points, keep=keep)
            yield f"{kind}, {baseline}, drop", largest(mine, single)
            yield f"{kind}, {baseline}, drop: no rank kept more", float(not kept.any())


def second_derivatives() -> Iterator[tuple[str, float]]:
    def hessian(samples: int, kind: str, points: Tensor, group: Group | None) -> list[Tensor]:
        phi, theta = leaves()
        value = sp.ScoreFunction(samples).combine(KINDS[kind](phi), Draw(points), f(points, theta), group=group)
        first = torch.autograd.grad(value.sum(), (phi, theta), create_graph=True)
        along = torch.stack([(g * torch.linspace(-1, 2, g.numel()).reshape(g.shape)).sum() for g in first]).sum()
        return list(torch.autograd.grad(along, (phi, theta)))

    for kind, make in KINDS.items():
        points = families.recognize(make(leaves()[0].detach())).sample(4, torch.Generator().manual_seed(3))
        mine = hessian(2, kind, part(points), Group(process_group=distributed.group.WORLD))
        yield f"{kind}, second derivative", largest(mine, hessian(4, kind, points, None))


class Model(nn.Module):
    """A discrete encoder, a cost with parameters, and an estimator that learns."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(SIZE, SIZE)
        self.theta = nn.Parameter(torch.ones(SIZE))
        self.estimator = sp.ScoreFunction(samples, baseline=sp.LearnedBaseline())
        self.leave_one_out = sp.ScoreFunction(samples)

    def forward(self, x: Tensor, points: Tensor, group: Group | None) -> Tensor:
        q = KINDS["bits"](self.encoder(x))
        costs = f(points, self.theta)
        learned = self.estimator.combine(q, Draw(points), costs, group=group)
        return (learned + 3 * self.leave_one_out.combine(q, Draw(points), costs, group=group)).mean()


def gradient(parameter: nn.Parameter) -> Tensor:
    """The whole gradient, gathered where it is sharded."""
    assert parameter.grad is not None
    return parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad


def models() -> Iterator[tuple[str, float]]:
    """Inside the wrappers that average gradients over ranks, also over two accumulated steps."""
    torch.manual_seed(5)
    x = torch.randn(6, SIZE, dtype=torch.float64)
    points = torch.randint(2, (4, 6, SIZE)).double()
    single = Model(4).double()
    single(x, points, None).backward()
    expected = [gradient(parameter) for parameter in single.parameters()]
    everyone = Group(process_group=distributed.group.WORLD)
    steps = [slice(0, 3), slice(3, 6)]

    def fresh() -> Model:
        model = Model(2).double()
        model.load_state_dict(single.state_dict())
        return model

    def difference(model: nn.Module) -> float:
        found = [gradient(parameter) for parameter in model.parameters()]
        return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))

    wrapped = DistributedDataParallel(fresh())
    wrapped(x, part(points), everyone).backward()
    yield "DistributedDataParallel", difference(wrapped)

    wrapped = DistributedDataParallel(fresh())
    for rows in steps:
        with wrapped.no_sync() if rows is steps[0] else nullcontext():
            (wrapped(x[rows], part(points)[:, rows], everyone) / 2).backward()
    yield "DistributedDataParallel, accumulated", difference(wrapped)

    sharded = fresh()
    fully_shard(sharded)
    sharded(x, part(points), everyone).backward()
    yield "FSDP2", difference(sharded)

    sharded = fresh()
    wrapper = fully_shard(sharded)
    for rows in steps:
        wrapper.set_requires_gradient_sync(rows is steps[-1])
        (sharded(x[rows], part(points)[:, rows], everyone) / 2).backward()
    yield "FSDP2, accumulated", difference(sharded)


THETA = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)


@sp.program
def two_bits(phi: Tensor) -> Tensor:
    theta = THETA
    x = sp.sample(KINDS["bits"](phi))
    sp.charge(f(x, theta))
    y = sp.sample(KINDS["bits"](phi * x - 0.3))
    return f(y, theta) * x[..., 0]


class Averaging(nn.Module):
    """An encoder, and a baseline that moves by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(SIZE, SIZE)
        self.estimator = sp.ScoreFunction(1, baseline=sp.MovingAverage(0.75))

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        return self.estimator.combine(KINDS["bits"](self.encoder(x)), Draw(points), f(points, leaves()[1])).mean()


def averages() -> Iterator[tuple[str, float]]:
    """A baseline that moves by itself, where each rank has batch elements of its own."""
    torch.manual_seed(6)
    x, points = torch.randn(2, 6, SIZE).double(), torch.randint(2, (2, 1, 6, SIZE)).double()
    mine, theta = distributed.get_rank(), leaves()[1]
    wrapped = DistributedDataParallel(Averaging().double())
    wrapped(x[mine], points[mine]).backward()
    costs = f(points, theta).detach().mean((1, 2))  # [rank]
    (found,) = wrapped.buffers()
    yield "MovingAverage follows each rank's own costs", float((found - (0.9 * 0.75 + 0.1 * costs[mine])).abs())
    yield "MovingAverage: equal costs on two ranks", float((costs[0] - costs[1]).abs() < 1e-3)
    wrapped(x[mine], points[mine])
    yield "MovingAverage is copied from rank 0", float((found - (0.9 * 0.75 + 0.1 * costs[0])).abs())


def programs() -> Iterator[tuple[str, float]]:
    """Particles on two ranks; the noise of both is drawn before."""
    everyone = distributed.group.WORLD
    generator = torch.Generator().manual_seed(3)
    both = torch.rand(2, 4, ROWS, SIZE, dtype=torch.float64, generator=generator)

    def run(drawn: Tensor, **setting: Any) -> list[Tensor]:
        parts = iter(drawn.flatten(1, 2).unsqueeze(1))  # [1, particles * rows, size] for each site
        fractions, noise.fractions = noise.fractions, lambda *_: next(parts).clone()
        phi, _ = leaves()
        value = two_bits.using(generator=own_noise(), particles=drawn.shape[1], **setting)(phi)
        noise.fractions = fractions
        return [value.detach(), *derivatives(value, [phi, THETA])]

    mine = run(part(both.transpose(0, 1)).transpose(0, 1), process_group=everyone)
    yield "program, particles", largest(mine, run(both))
    phi, _ = leaves()
    value = two_bits.using(generator=own_noise(), process_group=everyone)(phi)  # one run on each rank
    first, second = (x.sum() for x in derivatives(value, [phi, THETA]))
    yield "program, one run on each rank: no gradient", float(first == 0 or second == 0)


def programs_in_modules() -> Iterator[tuple[str, float]]:
    """`DistributedDataParallel` averages what the ranks' programs give, each from noise of its own."""

    class Walk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phi = nn.Parameter(torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64))

        @sp.program
        def loss(self, x: Tensor) -> Tensor:
            b = sp.sample(KINDS["bits"](self.phi + x))
            return f(b, THETA.detach()) + sp.sample(Bernoulli(logits=b.sum(-1)))

        def forward(self, x: Tensor) -> Tensor:
            return self.loss.using(generator=own_noise(), particles=2)(x).mean()

    x = leaves()[0].detach()
    wrapped = DistributedDataParallel(Walk())
    wrapped(x).backward()
    alone = Walk()
    alone(x).backward()
    yield "program in DistributedDataParallel", largest([gradient(alone.phi)], [gradient(wrapped.module.phi)])


def refusals() -> Iterator[tuple[str, str]]:
    """What must be refused, or not."""
    world = distributed.group.WORLD
    q = KINDS["bits"](leaves()[0])

    def text(call: Callable[[], object]) -> str:
        try:
            call()
        except (RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    def run(estimator: sp.Estimator[Any, Any] | None, generator: torch.Generator | None) -> object:
        return sp.expect(lambda x: x.sum(-1), q, estimator, generator=generator, process_group=world)

    same = torch.Generator().manual_seed(0)
    yield "one generator on all ranks", text(lambda: run(sp.ScoreFunction(2), same))
    torch.manual_seed(0)
    yield "one default generator on all ranks", text(lambda: run(sp.ScoreFunction(2), None))
    torch.manual_seed(distributed.get_rank())
    yield "default generators of their own", text(lambda: run(sp.ScoreFunction(2), None))
    program = two_bits.using(generator=same, particles=2, process_group=world)
    yield "one generator for a program on all ranks", text(lambda: program(leaves()[0]))
    yield "another estimator", text(lambda: run(sp.DisARM(2), own_noise()))
    yield "no estimator", text(lambda: run(None, own_noise()))
    yield "streams of one seed", text(lambda: parallel.check_streams(own_noise()))
    yield (
        "seeds 2^32 apart",
        text(lambda: parallel.check_streams(torch.Generator().manual_seed(2**32 * distributed.get_rank()))),
    )


CASES = (
    split_draws,
    expectations,
    dropped_costs,
    second_derivatives,
    models,
    averages,
    programs,
    programs_in_modules,
    refusals,
)

if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=300))
    found = {name: result for case in CASES for name, result in case()}
    Path(sys.argv[1], f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
    gc.collect()  # cycles in the wrapped models hold the group: its threads must be gone before the interpreter is
