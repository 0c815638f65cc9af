"""Exact samples from logits: the laws, the masks, and no gradient."""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy import stats

from sampleprop.distributions.gumbel_max import gumbel_max, gumbel_top_k

# A random test here fails by chance once in a million runs of it.
FALSE_ALARM = 1e-6
LOGITS = torch.tensor([0.4, -0.9, 1.3, -math.inf, 0.0])


def test_gumbel_max_follows_the_softmax():
    torch.manual_seed(0)
    points = gumbel_max(LOGITS.expand(20_000, 5))
    assert bool((points.sum(-1) == 1).all())
    observed = points.sum(0)
    assert observed[3] == 0
    possible = LOGITS.isfinite()
    expected = LOGITS.double().softmax(-1) * 20_000
    assert stats.chisquare(observed[possible].numpy(), expected[possible].numpy()).pvalue > FALSE_ALARM


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_gumbel_top_k_follows_plackett_luce(k):
    torch.manual_seed(k)
    count = 20_000
    classes = gumbel_top_k(LOGITS.expand(count, 5), k).argmax(-1)  # [count, k]
    counts = Counter(map(tuple, classes.tolist()))
    weights = LOGITS.double().exp()
    observed, expected = [], []
    for order in itertools.permutations([0, 1, 2, 4], k):
        probability, left = 1.0, weights.sum().item()
        for drawn in order:
            probability *= weights[drawn].item() / left
            left -= weights[drawn].item()
        expected.append(count * probability)
        observed.append(counts[order])
    assert sum(observed) == count
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_shapes_and_distinct_classes():
    points = gumbel_top_k(torch.zeros(2, 3, 6), 4)
    assert points.shape == (2, 3, 4, 6)
    assert bool((points.sum(-1) == 1).all())
    assert bool((points.sum(-2) <= 1).all())
    assert gumbel_max(torch.zeros(6)).shape == (6,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_logits(dtype):
    logits = torch.zeros(4, 3, dtype=dtype)
    assert gumbel_max(logits).dtype == dtype
    assert gumbel_top_k(logits, 2).dtype == dtype


def test_the_generator_decides():
    def generator():
        return torch.Generator().manual_seed(7)

    logits = torch.zeros(20, 5)
    assert bool((gumbel_max(logits, generator=generator()) == gumbel_max(logits, generator=generator())).all())
    first, second = (gumbel_top_k(logits, 3, generator=generator()) for _ in range(2))
    assert bool((first == second).all())


@pytest.mark.parametrize("sampler", [gumbel_max, lambda logits: gumbel_top_k(logits, 2)], ids=["max", "top k"])
def test_a_gradient_is_refused(sampler):
    logits = torch.zeros(3, 4, requires_grad=True)
    weights = torch.ones(4, requires_grad=True)
    loss = (sampler(logits.tanh()) * weights).sum()
    with pytest.raises(RuntimeError, match=r"has no derivative.*piecewise constant.*Use expect"):
        loss.backward()
    (sampler(logits.detach()) * weights).sum().backward()
    assert weights.grad is not None
    with torch.no_grad():
        assert not sampler(logits).requires_grad


# torch warns of its own Function class when it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("sampler", [gumbel_max, lambda logits: gumbel_top_k(logits, 2)], ids=["max", "top k"])
def test_vmap_and_compile(sampler):
    torch.manual_seed(1)
    rows = torch.func.vmap(sampler, randomness="different")(torch.zeros(50, 4))
    assert len(rows.flatten(1).unique(dim=0)) > 1
    points = torch.compile(sampler, fullgraph=True, backend="aot_eager")(torch.zeros(50, 4))
    assert bool((points.sum(-1) == 1).all())


@pytest.mark.parametrize(
    ("logits", "k", "message"),
    [
        ([[0.0, 1.0], [-math.inf, -math.inf]], 1, r"at least 1 finite logits in each row; row \[1\] has 0"),
        ([[0.0, 1.0, 2.0], [-math.inf, 0.0, -math.inf]], 2, r"at least 2 finite logits in each row; row \[1\] has 1"),
        ([-math.inf, 0.0], 2, r"row \[\] has 1"),
        ([[0.0, 1.0], [math.nan, 0.0]], 1, r"row \[1\] has NaN or \+inf"),
        ([[0.0, math.inf], [0.0, 0.0]], 1, r"row \[0\] has NaN or \+inf"),
        ([0.0, 1.0], 3, r"needs k from 1 to the number of classes; got k=3"),
        ([0.0, 1.0], 0, r"got k=0"),
        ([0.0, 1.0], True, r"got k=True"),
        (0.0, 1, r"got k=1 for logits of shape \[\]"),
    ],
)
def test_refusals(logits, k, message):
    with pytest.raises(ValueError, match=message):
        gumbel_top_k(torch.tensor(logits), k)


def test_refusals_of_gumbel_max():
    with pytest.raises(ValueError, match=r"gumbel_max needs at least 1 finite logits in each row; row \[0, 1\] has 0"):
        gumbel_max(torch.tensor([[[0.0, 0.0], [-math.inf, -math.inf]]]))
    with pytest.raises(TypeError, match=r"gumbel_max needs floating-point logits; got torch\.int64"):
        gumbel_max(torch.tensor([1, 2]))
