"""Log-probability, entropy and divergence from one pass, and any head in pieces."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from functional.agents import close
from functional.test_tokens import footprint


def by_autograd(logits: Tensor, tokens: Tensor, reference: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    log_p, log_q = (logits / temperature).log_softmax(-1), (reference / temperature).log_softmax(-1)
    p = log_p.exp()
    value = log_p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    safe = torch.where(p > 0, log_p, 0)
    return value, -(p * safe).sum(-1), (p * (safe - torch.where(p > 0, log_q, 0))).sum(-1)


def test_by_hand() -> None:
    logits = torch.tensor([[1.0, 2, 3]], dtype=torch.float64).log()
    logits[0, 0] = 0
    found = sp.token_terms(logits, torch.tensor([1]), reference=torch.zeros(1, 3, dtype=torch.float64))
    assert found.log_prob.item() == pytest.approx(-math.log(3), abs=1e-15)
    assert found.entropy.item() == pytest.approx(1.011404, abs=1e-6)
    assert found.kl is not None
    assert found.kl.item() == pytest.approx(math.log(3) - 1.011404, abs=1e-6)
    assert sp.token_terms(logits, torch.tensor([1])).kl is None


def case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 3, 4, 11, dtype=torch.float64, generator=generator)
    logits[0, 0, :5] = reference[0, 0, :5] = -torch.inf
    tokens = torch.randint(5, 11, (3, 4), generator=generator)
    return logits.requires_grad_(), tokens, reference


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("piece", [1, 25, 1 << 20], ids=lambda n: f"{n} numbers at a time")
def test_terms_and_gradients(temperature: float, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("sampleprop.functional.token_log_prob"), "PIECE", piece)
    logits, tokens, reference = case()
    found = sp.token_terms(logits, tokens, reference=reference, temperature=temperature)
    expected = by_autograd(logits, tokens, reference, temperature)
    weights = torch.randn(3, 3, 4, dtype=torch.float64)
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    close(*(torch.autograd.grad(x, logits, weights.unbind(0))[0] for x in (found, expected)))
    direct = sp.token_log_prob(logits, tokens, temperature=temperature)
    expected = by_autograd(logits, tokens, reference, temperature)
    close(*(torch.autograd.grad(x, logits, weights[0])[0] for x in (direct, expected[0])))


def test_second_derivatives() -> None:
    logits, tokens, reference = case()
    weights, some = torch.randn(3, 3, 4, dtype=torch.float64), torch.randn(3, 4, 11, dtype=torch.float64)

    def second(terms: Any) -> Tensor:
        (first,) = torch.autograd.grad(terms, logits, weights.unbind(0), create_graph=True)
        return torch.autograd.grad((first * some).sum(), logits)[0]

    close(
        second(sp.token_terms(logits, tokens, reference=reference, temperature=0.7)),
        second(by_autograd(logits, tokens, reference, 0.7)),
    )


def test_gradcheck() -> None:
    logits, tokens, reference = case()
    logits = logits.detach().clamp_min(-3).requires_grad_()
    mask = torch.tensor([[True, True, False, True]] * 3)

    def terms(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(sp.token_terms(x, tokens, reference=reference.clamp_min(-3), temperature=1.3, mask=mask))

    assert torch.autograd.gradcheck(terms, (logits,))
    assert torch.autograd.gradgradcheck(terms, (logits,))


def test_padding_may_be_anything() -> None:
    logits, tokens, reference = case()
    mask = torch.tensor([[True, True, False, True]] * 3)
    broken = torch.where(mask.unsqueeze(-1), logits, torch.nan).detach().requires_grad_()
    found = sp.token_terms(broken, torch.where(mask, tokens, -100), reference=reference, mask=mask)
    expected = sp.token_terms(logits, tokens, reference=reference)
    for one, other in zip(found, expected, strict=True):
        close(one, torch.where(mask, other, 0))
    (gradient,) = torch.autograd.grad(found, broken, [torch.ones_like(tokens).double()] * 3)
    (whole,) = torch.autograd.grad(expected, logits, [mask.double()] * 3)
    close(gradient, whole)


def test_compile_and_transforms() -> None:
    logits, tokens, reference = case()

    def loss(logits: Tensor, reference: Tensor, tokens: Tensor) -> Tensor:
        terms = sp.token_terms(logits, tokens, reference=reference, temperature=0.8)
        return (terms.log_prob + 0.3 * terms.entropy * (terms.kl if terms.kl is not None else 0)).sum()

    expected = loss(logits, reference, tokens)
    (gradient,) = torch.autograd.grad(expected, logits)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, reference, tokens)
    close(compiled, expected)
    close(torch.autograd.grad(compiled, logits)[0], gradient)
    close(torch.func.vmap(loss)(logits, reference, tokens).sum(), expected)
    close(torch.func.grad(loss)(logits.detach(), reference, tokens), gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    logits, reference = torch.randn(2, 64, 500).to(dtype)
    tokens = torch.randint(500, (64,))
    logits.requires_grad_()
    found = sp.token_terms(logits, tokens, reference=reference)
    exact = logits.detach().double().requires_grad_()
    expected = by_autograd(exact, tokens, reference.double(), 1.0)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
    ones = [torch.ones(64)] * 3
    (gradient,) = torch.autograd.grad(found, logits, ones)
    assert gradient.dtype == dtype
    (whole,) = torch.autograd.grad(expected, exact, [x.double() for x in ones])
    torch.testing.assert_close(gradient.double(), whole, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_only_the_logits_are_kept() -> None:
    logits = torch.randn(64, 1000, dtype=torch.bfloat16, requires_grad=True)
    reference = torch.randn(64, 1000, dtype=torch.bfloat16)
    tokens = torch.randint(1000, (64,))
    _, kept = footprint(lambda: sum(sp.token_terms(logits, tokens, reference=reference)))  # type: ignore[arg-type]
    assert kept == 2 * 2 * logits.numel() + (8 + 3 * 4) * 64


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x, t: sp.token_terms(x.long(), t), TypeError, "logits as a tensor of real floating"),
        (lambda x, t: sp.token_terms(x, t, reference=x[:1]), ValueError, "reference in the shape of logits"),
        (lambda x, t: sp.token_terms(x, t, reference=x.clone().requires_grad_()), ValueError, "reference without a"),
        (lambda x, t: sp.token_terms(x, t, reference=x.log()), ValueError, "in the divergence; got .*probability 0"),
        (lambda x, t: sp.token_terms(x - torch.inf, t), ValueError, "a possible token in each row"),
        (lambda x, t: sp.token_terms(x, t + 7), ValueError, "tokens from 0 to 2; got 8"),
    ],
)
def test_refusals(call: Callable[[Tensor, Tensor], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"token_terms needs .*{match}"):
        call(torch.tensor([[0.0, 1, 2], [1, 1, 1]]), torch.tensor([1, 2]))


# --- any head in pieces -----------------------------------------------------------------------------------------------


def heads() -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """A head with a soft cap, a scale, a bias and an adapter, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    weight, a, b, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((11, 6), (2, 6), (11, 2), (11,))
    )

    def head(h: Tensor) -> Tensor:
        return 3 * ((h @ (weight + b @ a).T * 0.7 + bias) / 3).tanh()

    return head, [weight, a, b, bias]


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_any_head_in_chunks(chunk: int) -> None:
    head, parameters = heads()
    hidden, base = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    hidden.requires_grad_()
    tokens = torch.randint(11, (3, 4))
    reference = base @ torch.randn(6, 11, dtype=torch.float64)

    def terms(h: Tensor, t: Tensor, r: Tensor) -> Any:
        return sp.token_terms(head(h), t, reference=r)

    found = sp.in_chunks(terms, hidden, tokens, reference, dims=2, chunk=chunk)
    expected = terms(hidden, tokens, reference)
    assert isinstance(found, type(expected))
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    leaves, weights = [hidden, *parameters], torch.randn(3, 3, 4, dtype=torch.float64).unbind(0)
    for one, other in zip(*(torch.autograd.grad(x, leaves, weights) for x in (found, expected)), strict=True):
        close(one, other)
    plain = sp.in_chunks(lambda h, t: sp.token_log_prob(head(h), t), hidden, tokens, dims=2, chunk=chunk)
    close(plain, expected.log_prob)


def test_what_the_head_does_after_the_product_is_lost_by_its_weight_alone() -> None:
    head, (weight, *_, bias) = heads()
    hidden, tokens = torch.randn(3, 6, dtype=torch.float64), torch.randint(11, (3,))
    right = sp.in_chunks(lambda h, t: sp.token_log_prob(head(h), t), hidden, tokens, dims=1)
    assert (sp.sequence_log_prob(hidden, weight, tokens, bias=bias) - right).abs().max() > 0.1


def test_chunks_without_gradients_and_under_transforms() -> None:
    head, _ = heads()
    hidden, tokens = torch.randn(3, 4, 6, dtype=torch.float64), torch.randint(11, (3, 4))

    def chunked(h: Tensor) -> Tensor:
        return sp.in_chunks(lambda h, t: sp.token_log_prob(head(h), t), h, tokens, dims=2, chunk=5).sum()

    def whole(h: Tensor) -> Tensor:
        return sp.token_log_prob(head(h), tokens).sum()

    with torch.no_grad():
        close(chunked(hidden), whole(hidden))
    close(torch.func.grad(chunked)(hidden), torch.func.grad(whole)(hidden))


@pytest.mark.parametrize(
    ("f", "error", "match"),
    [
        (lambda h, t: h.sum(), ValueError, r"one row for each position, \[2, \.\.\.\]; got \[\]"),
        (lambda h, t: 3.0, TypeError, "return a tensor, or a tuple of them; got float"),
    ],
)
def test_chunks_refuse(f: Callable[..., Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"in_chunks needs .*{match}"):
        sp.in_chunks(f, torch.zeros(4, 6), torch.zeros(4), dims=1, chunk=2)
    with pytest.raises(ValueError, match="same positions"):
        sp.in_chunks(f, torch.zeros(4, 6), torch.zeros(5), dims=1)
