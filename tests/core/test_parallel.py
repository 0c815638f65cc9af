"""Samples that are spread: over ranks, over particles, over steps; and what a score function takes for its samples."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, HalfNormal, Independent, Normal

import sampleprop as sp
from sampleprop import families, parallel
from sampleprop.costs import Group
from sampleprop.estimators.score.score_function import Draw

REFUSED = {
    "one generator on all ranks": r"RuntimeError: .*ranks share noise: 0 and 1 .* Pass generator=rank_generator",
    "one default generator on all ranks": r"RuntimeError: .*ranks share noise",
    "one generator for a program on all ranks": "RuntimeError: .*ranks share noise",
    "default generators of their own": "nothing",
    "another estimator": r"TypeError: expect needs ScoreFunction .* got DisARM\(\) .* Leave process_group out",
    "no estimator": r"TypeError: expect needs ScoreFunction .* got None",
    "streams of one seed": "nothing",
    "seeds 2^32 apart": r"RuntimeError: .*ranks share noise",  # torch seeds its CPU generator by the lowest 32 bits
}


@pytest.mark.slow
def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    """Rounding apart: each case gives the largest difference in values and gradients, which are of order 1."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "parallel_worker.py"]
    subprocess.run(
        [sys.executable, *command, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
        check=True,
    )
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        numbers = {case: result for case, result in found.items() if case not in REFUSED}
        assert len(numbers) == 44
        assert {case: error for case, error in numbers.items() if not error < 1e-10} == {}
        assert {case: found[case] for case, text in REFUSED.items() if not re.match(text, found[case])} == {}


def test_streams_differ_between_ranks_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.distributed, "is_initialized", lambda: True)
    drawn = {}
    for rank in range(20):
        monkeypatch.setattr(parallel.distributed, "get_rank", lambda group, rank=rank: rank)
        for seed in range(20):
            drawn[seed, rank] = torch.rand(2, dtype=torch.float64, generator=parallel.rank_generator(seed)).tolist()
            again = torch.rand(2, dtype=torch.float64, generator=parallel.rank_generator(seed)).tolist()
            assert drawn[seed, rank] == again
    assert len({tuple(numbers) for numbers in drawn.values()}) == 400


# One process: particles, steps and draws.


LOGITS = torch.tensor([[0.3, -0.8, 1.1], [0.0, 0.5, -1.5]], dtype=torch.float64)  # [batch 2, event 3]


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits), 1)


def f(x: Tensor) -> Tensor:
    return 3 + (x * torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype)).sum(-1).square()


@pytest.mark.parametrize("baseline", [None, sp.LeaveOneOut(), sp.OptimalCoefficient()], ids=str)
@pytest.mark.parametrize(("samples", "particles"), [(None, 4), (1, 4), (2, 3)])
def test_particles_are_samples(baseline: sp.Baseline | None, samples: int | None, particles: int) -> None:
    k = 1 if samples is None else samples
    points = families.recognize(bits(LOGITS)).sample(k * particles)  # [k * particles, batch, event]
    gradients = []
    for estimator, spread, group in (
        (sp.ScoreFunction(samples, baseline=baseline), points.reshape(k, particles, 2, 3), Group(dim=-2)),
        (sp.ScoreFunction(k * particles, baseline=baseline), points, None),
    ):
        logits = LOGITS.clone().requires_grad_()
        dist = bits(logits.expand(particles, 2, 3) if group else logits)
        value = estimator.combine(dist, Draw(spread), f(spread), group=group)
        gradients.append(torch.autograd.grad((value.mean(0) if group else value).sum(), logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1, -3])
def test_a_group_dimension_is_a_batch_dimension(dim: int) -> None:
    points = families.recognize(bits(LOGITS.expand(4, 2, 3))).sample(1)
    with pytest.raises(ValueError, match=rf"needs Group\(dim=...\) from -2 to -1, .* got {dim}"):
        sp.ScoreFunction(1).combine(bits(LOGITS.expand(4, 2, 3)), Draw(points), f(points), group=Group(dim=dim))


def test_accumulated_steps_are_the_large_batch() -> None:
    points = families.recognize(bits(LOGITS)).sample(4)
    gradients = []
    for steps in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        logits = LOGITS.clone().requires_grad_()
        for rows in steps:
            part = points[:, rows]
            (sp.ScoreFunction(4).combine(bits(logits[rows]), Draw(part), f(part)).sum() / 2).backward()
        gradients.append(logits.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("baseline", [None, sp.LeaveOneOut(), sp.OptimalCoefficient()], ids=str)
def test_a_group_does_not_span_accumulated_steps(baseline: sp.Baseline | None) -> None:
    estimator = sp.ScoreFunction(4, baseline=baseline)
    draw = estimator.propose(bits(LOGITS))
    part = draw.points[:2]
    with pytest.raises(ValueError, match=r"one cost for each point, shape .* = \[4, 2\]; f returned \[2, 2\]"):
        estimator.combine(bits(LOGITS), draw, f(part))
    with pytest.raises(ValueError, match=r"needs the costs of its whole draw at once, 4 samples .* got 2.*torch\.cat"):
        estimator.combine(bits(LOGITS), draw._replace(points=part), f(part))


@pytest.mark.parametrize("baseline", [sp.LeaveOneOut(), sp.OptimalCoefficient()], ids=str)
@pytest.mark.parametrize("group", [None, Group(), Group(dim=-1)], ids=str)
def test_a_group_of_one_has_no_others(baseline: sp.Baseline, group: Group | None) -> None:
    points = families.recognize(bits(LOGITS[:1])).sample(1)
    with pytest.raises(ValueError, match=rf"{baseline} needs at least 2 samples of each batch element.* got 1"):
        sp.ScoreFunction(1, baseline=baseline).combine(bits(LOGITS[:1]), Draw(points), f(points), group=group)


def test_without_a_group_of_two_the_default_has_no_baseline() -> None:
    points = families.recognize(bits(LOGITS[:1])).sample(1)
    gradients = []
    for baseline, group in ((None, Group(dim=-1)), (sp.Constant(0.0), None)):
        logits = LOGITS[:1].clone().requires_grad_()
        value = sp.ScoreFunction(1, baseline=baseline).combine(bits(logits), Draw(points), f(points), group=group)
        gradients.append(torch.autograd.grad(value.sum(), logits)[0])
    assert torch.equal(*gradients)


class Foreign(NamedTuple):
    points: Tensor
    probes: None = None


@pytest.mark.parametrize("kind", sp.REGISTER, ids=lambda kind: kind.__name__)
def test_the_draw_of_another_estimator_is_refused(kind: type[sp.Estimator]) -> None:
    points = families.recognize(bits(LOGITS)).sample(2)
    with pytest.raises(TypeError, match=rf"{kind.__name__} needs a draw of its own, .* got test_parallel\.Foreign"):
        kind().combine(bits(LOGITS), Foreign(points), f(points))


@pytest.mark.parametrize(
    ("proposes", "combines"),
    [(sp.DisARM(), sp.ScoreFunction()), (sp.ScoreFunction(), sp.REBAR(2)), (sp.REBAR(2), sp.DisARM())],
    ids=str,
)
def test_draws_are_not_exchanged(proposes: sp.Estimator, combines: sp.Estimator) -> None:
    draw = proposes.propose(bits(LOGITS))
    with pytest.raises(TypeError, match=rf"{combines.name} needs a draw of its own"):
        combines.combine(bits(LOGITS), draw, f(draw.points), relaxed_f=f)


@pytest.mark.parametrize(
    ("baseline", "fix"),
    [(1.0, r"sp\.Constant\(1\.0\)"), (sp.LeaveOneOut, r"an object, such as sp\.LeaveOneOut\(\)")],
    ids=str,
)
def test_a_baseline_is_an_object(baseline: object, fix: str) -> None:
    with pytest.raises(TypeError, match=rf"ScoreFunction needs a Baseline object or None; got .* Pass {fix}"):
        sp.ScoreFunction(2, baseline=baseline)


def test_a_point_of_probability_zero_is_named() -> None:
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    dist = HalfNormal(scale, validate_args=False)
    points = torch.tensor([[0.5, 1.0, 2.0], [0.1, -1.0, 0.2], [0.3, 0.4, 0.6]], dtype=torch.float64)
    estimator = sp.ScoreFunction(3)
    with pytest.raises(
        ValueError, match=r"points of finite log-probability; got -inf at \[sample, \*batch\] = \[1, 1\]"
    ):
        estimator.combine(dist, Draw(points), points.square())
    estimator.combine(dist, Draw(points), points.square(), keep=points > 0).sum().backward()
    assert scale.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["bits", "normal"])
def test_a_known_mean_is_of_a_constant_function(kind: str) -> None:
    """b = w·x with w made of θ and of φ: the first and second derivatives are those of the same numbers without
    graph."""
    make = bits if kind == "bits" else lambda loc: Independent(Normal(loc, (loc / 3).exp()), 1)
    points = families.recognize(make(LOGITS)).sample(3)
    derivatives = []
    for constant in (False, True):
        phi, theta = LOGITS.clone().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        w = theta.square() * phi.sum().sin() + phi[0]  # [event]
        w = w.detach() if constant else w
        baseline = sp.KnownMean(lambda x, w=w: (x * w).sum(-1) * 2, lambda dist, w=w: (dist.mean * w).sum(-1) * 2)
        value = sp.ScoreFunction(3, baseline=baseline).combine(make(phi), Draw(points), f(points) * phi[:, 0])
        value = value + 0 * theta
        first = torch.autograd.grad(value.sum(), (phi, theta), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), (phi, theta), allow_unused=True, materialize_grads=True)
        derivatives.append([value, *first, *second])
    for found, expected in zip(*derivatives, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert derivatives[1][3].abs().min() > 0.01


def test_a_known_mean_leaves_no_gradient_at_all_to_its_coefficients() -> None:
    logits, w = LOGITS.clone().requires_grad_(), torch.ones(3, dtype=torch.float64, requires_grad=True)
    baseline = sp.KnownMean(lambda x: (x * w).sum(-1), lambda dist: (dist.mean * w).sum(-1))
    sp.expect(f, bits(logits), sp.ScoreFunction(2, baseline=baseline)).sum().backward()
    assert w.grad is None
    assert logits.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("key", "kind", "field"),
    [
        ("aitchison1980logistic", "article", "journal"),
        ("tucker2017rebar", "inproceedings", "booktitle"),
        ("bengio2013estimating", "misc", "howpublished"),
    ],
)
def test_a_source_is_cited_as_what_it_is(key: str, kind: str, field: str) -> None:
    source = sp.Source(key, "sec. 3")
    assert source.bibtex().startswith(f"@{kind}{{{key},")
    assert source[field]
    assert str(source) == f"{source['author']} ({source['year']}), “{source['title']}”, {source[field]}" + (
        f", arXiv:{source['eprint']}, sec. 3" if source["eprint"] else ", sec. 3"
    )


def test_estimators_with_groups_are_copied_as_they_are() -> None:
    estimator = copy.deepcopy(sp.ScoreFunction(None, baseline=sp.LeaveOneOut()))
    assert estimator.label == "ScoreFunction(samples=None, baseline=LeaveOneOut)"
    assert estimator.for_budget(bits(LOGITS), 1) is None
