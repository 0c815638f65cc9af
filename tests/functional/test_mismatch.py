"""What the report says of draws that are not what their log-probabilities say.

The draws are random with fixed seeds. A right case is called wrong where a z above 4 is seen by chance: 6e-5 for each
test.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sampleprop as sp

DRAWS, TIME, VOCABULARY = 400, 24, 30


def logits() -> Tensor:
    return 1.5 * torch.randn(DRAWS, TIME, VOCABULARY, generator=torch.Generator().manual_seed(0))


def drawn(sampler: Tensor, recorded: Tensor | None = None, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Tokens of the sampler, and what it recorded of them: its own log-probabilities, or others'."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(sampler.shape, generator=generator).log().neg().log().neg()
    tokens = (sampler + noise).argmax(-1)
    return tokens, sp.token_log_prob(sampler if recorded is None else recorded, tokens)


def truncated(x: Tensor, k: int) -> Tensor:
    return torch.where(x >= x.topk(k, -1).values[..., -1:], x, -torch.inf)


def case(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The learner's logits, the tokens, and what was recorded of them."""
    x = logits()
    if name == "right":
        return x, *drawn(x)
    if name in ("temperature 0.7", "temperature 1.3"):
        return x, *drawn(x / float(name.split()[1]))
    if name == "top-k":
        return x, *drawn(truncated(x, 8))
    if name == "top-k, masked":
        return truncated(x, 8), *drawn(truncated(x, 8))
    if name == "bfloat16":
        return x.bfloat16().float(), *drawn(x)
    if name == "shifted":
        tokens, recorded = drawn(x)
        # Logits of the next step, which have seen the token: it is what they repeat.
        return x + 3 * torch.nn.functional.one_hot(tokens, VOCABULARY), tokens, recorded
    if name == "padded":
        other = torch.where(torch.arange(DRAWS).view(-1, 1, 1) % 3 == 0, x + 0.5 * x.roll(1, -1), x)
        return other, *drawn(x)
    if name == "older":
        return x + 0.4 * x.roll(3, -1), *drawn(x)
    assert name == "recorded raw"
    return x, *drawn(x / 0.7, recorded=x)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("right", "the learner's, to float32"),
        ("top-k, masked", "the learner's, to float32"),
        ("temperature 0.7", r"about 0\.7\d times the learner's temperature"),
        ("temperature 1.3", r"about 1\.[23]\d times the learner's temperature"),
        ("top-k", "μ was truncated"),
        ("bfloat16", "bfloat16 rounding"),
        ("shifted", "shifted by a step"),
        ("padded", r"6\d% of the draws fit, the others do not"),
        ("older", "no pattern: dropout"),
        ("recorded raw", "the learner's, to float32"),
    ],
)
def test_signatures(name: str, hint: str) -> None:
    learner, tokens, recorded = case(name)
    found = sp.mismatch(sp.token_log_prob(learner, tokens), recorded, time_dim=1)
    assert re.search(hint, found.hints[0]), found
    assert found.steps == DRAWS * TIME
    assert found.draws == DRAWS


@pytest.mark.parametrize(
    ("name", "surprising"), [("right", 0), ("top-k, masked", 0), ("bfloat16", 0), ("recorded raw", -1), ("older", 1)]
)
def test_the_surprise_needs_no_sampler(name: str, surprising: int) -> None:
    learner, tokens, _ = case(name)
    found = sp.mismatch(sp.token_log_prob(learner, tokens), time_dim=1, entropy=entropy_of(learner))
    assert len(found.hints) == abs(surprising)
    assert found.surprise_z * surprising >= 0
    assert (abs(found.surprise_z) > 4) == bool(surprising)


def entropy_of(x: Tensor) -> Tensor:
    terms = sp.token_terms(x, torch.zeros(x.shape[:-1], dtype=torch.int64).fill_(int(x[0, 0].argmax())))
    return terms.entropy


def test_the_mask_and_the_order_of_dimensions() -> None:
    learner, tokens, recorded = case("temperature 0.7")
    log_prob = sp.token_log_prob(learner, tokens)
    mask = torch.arange(TIME) < 10
    short = sp.mismatch(log_prob[:, :10], recorded[:, :10], time_dim=1)
    padded = torch.where(mask, recorded, torch.nan)
    found = sp.mismatch(log_prob.T, padded.T, time_dim=0, mask=mask.expand(DRAWS, TIME).T)
    assert found.steps == short.steps == DRAWS * 10
    for name in ("rms", "slope", "draw_size", "fitting"):
        assert getattr(found, name) == pytest.approx(getattr(short, name))


def test_few_steps_have_no_pattern() -> None:
    found = sp.mismatch(torch.tensor([[-1.0]]), torch.tensor([[-1.2]]), time_dim=1)
    assert found.hints == ("The two differ; to tell a pattern, compare 50 steps or more.",)


def test_numbers_by_hand() -> None:
    log_pi, log_mu = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.5]])
    found = sp.mismatch(log_pi, log_mu, time_dim=1)
    assert found.mean == pytest.approx(0)
    assert found.rms == pytest.approx(0.5)
    assert found.worst == pytest.approx(0.5)
    assert found.above == 0.5
    assert found.outside == 1
    assert "rms" in str(found)
    assert "surprise" not in str(found)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: sp.mismatch(x, time_dim=1), "behaviour_log_prob, entropy, or both"),
        (lambda x: sp.mismatch(x, x[:1], time_dim=1), "behaviour_log_prob in the shape of log_prob"),
        (lambda x: sp.mismatch(x, x / 0, time_dim=1), "finite numbers in behaviour_log_prob"),
        (lambda x: sp.mismatch(x, x, time_dim=1, mask=x > 0), "a step that the mask keeps"),
    ],
)
def test_refusals(call: Callable[[Tensor], object], match: str) -> None:
    with pytest.raises(ValueError, match=f"mismatch needs .*{match}"):
        call(-torch.ones(2, 3))
