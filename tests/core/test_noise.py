"""Uniform numbers: a 0 among them stands for half of the smallest positive one, however they are compared."""

from collections.abc import Sequence

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Bernoulli

from sampleprop import noise
from sampleprop.estimators.coupled import antithetic
from sampleprop.families import Bernoullis, recognize

SPACING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@pytest.fixture(params=SPACING, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def given(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> Tensor:
    """The first and last numbers that can come, and one between, in place of those that are drawn: [5, 1]."""
    spacing = SPACING[dtype]
    u = torch.tensor([0, spacing, 2 * spacing, 0.5, 1 - spacing], dtype=dtype)[:, None]

    def fractions(shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
        return u[: shape[0]].expand(*shape).clone()

    monkeypatch.setattr(noise, "fractions", fractions)
    return u


def near(dtype: torch.dtype) -> Tensor:
    """Probabilities around each of these numbers, and such as no number comes below."""
    spacing = SPACING[dtype]
    tiny = [0.0, 1e-30, 0.25, 0.5 - 1e-6, 0.5, 0.5 + 1e-6, 0.75, 1.0, 1.5, 2.0, 2.5]
    return torch.tensor([*(spacing * x for x in tiny), 0.3, 0.5, 0.7, 1 - spacing, 1.0], dtype=dtype)


@pytest.mark.parametrize("k", [1, 5])
def test_coins_compare_as_if_0_were_half_of_the_smallest(
    dtype: torch.dtype, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    u, probs = given(monkeypatch, dtype)[:k], near(dtype)
    raised = u.clamp_min(SPACING[dtype] / 2)
    assert torch.equal(noise.coins((k, *probs.shape), probs), (raised < probs).to(dtype))
    assert torch.equal(noise.uniform((k, 1), probs), raised)


@pytest.mark.parametrize("pairs", [1, 5])
def test_antithetic_pairs_do_so_too(dtype: torch.dtype, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    u, half = given(monkeypatch, dtype)[:pairs], SPACING[dtype] / 2
    # Not half itself, where both answers are as far from the probability.
    probs = torch.tensor([p for p in near(dtype).tolist() if 0 < p < 0.9 and p != half], dtype=dtype)
    variables = recognize(Bernoulli(logits=torch.cat((torch.logit(probs), -torch.logit(probs)))))
    assert isinstance(variables, Bernoullis)
    points, _ = antithetic.pairs(variables, 2 * pairs, None)
    raised, logits = u.clamp_min(half), variables.logits
    expected = torch.cat((raised > (-logits).sigmoid(), raised < logits.sigmoid()))
    assert torch.equal(points, expected.to(dtype))


def test_above_is_a_comparison_as_numbers() -> None:
    x, limit = torch.tensor([[-1.0, 0.0, 2.0], [0.5, torch.nan, 3.0]]), torch.tensor([0.0, 0.0, 2.5])
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert torch.equal(noise.above(x, limit, dtype), (x > limit).to(dtype))
        assert torch.equal(noise.above(x, 0.0, dtype), (x > 0).to(dtype))
