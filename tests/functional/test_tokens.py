"""Log-probabilities of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sampleprop as sp


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def reference(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    return (logits / temperature).log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_log_prob(temperature: float) -> None:
    logits = torch.randn(3, 4, 11, dtype=torch.float64)
    logits[0, 0, :5] = -torch.inf
    logits.requires_grad_()
    tokens = torch.randint(5, 11, (3, 4))
    weights = torch.randn(3, 4, dtype=torch.float64)
    found, expected = sp.token_log_prob(logits, tokens, temperature=temperature), reference(logits, tokens, temperature)
    close(found, expected)
    by_found, by_expected = (torch.autograd.grad(x, logits, weights, create_graph=True)[0] for x in (found, expected))
    close(by_found, by_expected)
    some = torch.randn(3, 4, 11, dtype=torch.float64)
    close(*(torch.autograd.grad((x * some).sum(), logits, retain_graph=True)[0] for x in (by_found, by_expected)))
    assert sp.token_log_prob(logits, torch.zeros_like(tokens))[0, 0] == -torch.inf


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sequence_log_prob(chunk: int, temperature: float) -> None:
    hidden = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    start = torch.randn(11, dtype=torch.float64)
    start[:2] = -torch.inf
    bias = start.clone().requires_grad_()
    leaves = (hidden, weight, bias)
    tokens = torch.randint(2, 11, (3, 4))
    weights = torch.randn(3, 4, dtype=torch.float64)
    found = sp.sequence_log_prob(hidden, weight, tokens, bias=bias, temperature=temperature, chunk=chunk)
    expected = reference(hidden @ weight.T + bias, tokens, temperature)
    close(found, expected)
    first, first_exact = (torch.autograd.grad(x, leaves, weights, create_graph=True) for x in (found, expected))
    for one, other in zip(first, first_exact, strict=True):
        close(one, other)
        some = torch.randn_like(one)
        second, second_exact = (torch.autograd.grad((g * some).sum(), leaves, retain_graph=True) for g in (one, other))
        for a, b in zip(second, second_exact, strict=True):
            close(a, b)


def test_only_what_is_asked_for_is_differentiated() -> None:
    hidden, weight = torch.randn(4, 3, requires_grad=True), torch.randn(7, 3)
    sp.sequence_log_prob(hidden, weight, torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert hidden.grad is not None
    frozen, head = torch.randn(4, 3), torch.randn(7, 3, requires_grad=True)
    sp.sequence_log_prob(frozen, head, torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert head.grad is not None
    assert sp.sequence_log_prob(hidden[:0], head, torch.zeros(0, dtype=torch.int64)).shape == (0,)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation makes, those of the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        self.size = max(self.size, *(x.numel() for x in made if isinstance(x, Tensor)), 0)
        return result


def footprint(function: Callable[[], Tensor]) -> tuple[int, int]:
    """Elements of the largest tensor made, and of all that is kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        function().sum().backward()
    return largest.size, sum(kept.values())


def test_memory_does_not_grow_with_positions_times_vocabulary() -> None:
    hidden = torch.randn(4, 64, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=True)
    tokens = torch.randint(1000, (4, 64))
    largest, kept = footprint(lambda: sp.sequence_log_prob(hidden, weight, tokens, chunk=16))
    assert largest == 16 * 1000
    assert kept == 4 * (hidden.numel() + weight.numel()) + 8 * tokens.numel()
    largest, kept = footprint(lambda: reference(hidden @ weight.T, tokens))
    assert largest == 256 * 1000
    assert kept > 4 * 256 * 1000


def test_half_precision_logits_are_not_copied_to_be_kept() -> None:
    logits = torch.randn(64, 1000, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.randint(1000, (64,))
    _, kept = footprint(lambda: sp.token_log_prob(logits, tokens))
    assert kept == 2 * logits.numel() + (8 + 4) * tokens.numel()  # and the norm of each row
    _, kept = footprint(lambda: reference(logits.float(), tokens))
    assert kept > 4 * logits.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """As good as the rounding of the logits allows: they reach 20 or so."""
    hidden = torch.randn(64, 32).to(dtype).requires_grad_()
    weight = torch.randn(500, 32).to(dtype).requires_grad_()
    tokens = torch.randint(500, (64,))
    exact_leaves = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = reference(exact_leaves[0] @ exact_leaves[1].T, tokens)
    exact_gradients = torch.autograd.grad(expected.mean(), exact_leaves)
    rounding = torch.finfo(dtype).eps
    for chunk in (4, 64):
        found = sp.sequence_log_prob(hidden, weight, tokens, chunk=chunk)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < 40 * rounding
        for one, other in zip(torch.autograd.grad(found.mean(), (hidden, weight)), exact_gradients, strict=True):
            assert one.dtype == dtype
            assert (one - other).norm() < 20 * rounding * other.norm()
    logits = (hidden @ weight.T).detach().requires_grad_()
    direct = sp.token_log_prob(logits, tokens)
    torch.testing.assert_close(direct, reference(logits.float(), tokens))
    assert torch.autograd.grad(direct.sum(), logits)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_chunks_lose_nothing_in_half_precision(dtype: torch.dtype) -> None:
    """Their gradients of the head are added in float32; added in half precision they would be six times as wrong."""
    hidden, weight = torch.rand(512, 8).to(dtype), torch.randn(20, 8).to(dtype).requires_grad_()
    tokens = torch.randint(20, (512,))
    exact_weight = weight.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference(hidden.double() @ exact_weight.T, tokens).mean(), exact_weight)
    errors = []
    for chunk in (4, 512):
        (gradient,) = torch.autograd.grad(sp.sequence_log_prob(hidden, weight, tokens, chunk=chunk).mean(), weight)
        errors.append((gradient - expected).norm())
    assert errors[0] < 1.2 * errors[1]


def test_autocast() -> None:
    hidden, weight = torch.randn(8, 32, requires_grad=True), torch.randn(50, 32, requires_grad=True)
    tokens = torch.randint(50, (8,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sp.sequence_log_prob(hidden, weight, tokens, chunk=3)
        logits = torch.nn.functional.linear(hidden, weight)
        assert logits.dtype == torch.bfloat16
        expected = reference(logits.float(), tokens)
        torch.testing.assert_close(sp.token_log_prob(logits, tokens), expected)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(x.sum(), (hidden, weight)) for x in (found, expected)), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_padding_may_be_anything() -> None:
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    weight = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    tokens, mask = torch.randint(9, (2, 4)), torch.tensor([[True, True, True, True], [True, True, False, False]])
    tokens[~mask] = -100
    whole_rows = hidden.clone().requires_grad_()
    expected = reference(whole_rows @ weight.T, tokens.clamp_min(0)).where(mask, 0)
    gradients_exact = torch.autograd.grad(expected.sum(), (whole_rows, weight))
    broken = hidden.clone()
    broken[~mask] = torch.nan  # as attention over nothing gives
    broken.requires_grad_()
    found = sp.sequence_log_prob(broken, weight, tokens, mask=mask, chunk=3)
    close(found, expected)
    for one, other in zip(torch.autograd.grad(found.sum(), (broken, weight)), gradients_exact, strict=True):
        close(one, other)
    logits = torch.full((2, 9), -torch.inf, dtype=torch.float64)
    logits[0] = 0
    logits.requires_grad_()
    value = sp.token_log_prob(logits, torch.zeros(2, dtype=torch.int64), mask=torch.tensor([True, False]))
    assert value[1] == 0
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


def test_token_functions_compile_and_vmap() -> None:
    hidden, weight = torch.randn(2, 3, 4, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    tokens, mask = torch.randint(9, (2, 3, 4)), torch.rand(2, 3, 4) < 0.8

    def loss(hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        sequence = sp.sequence_log_prob(hidden, weight, tokens, mask=mask, temperature=0.8, chunk=5)
        return (sequence * sp.token_log_prob(hidden @ weight.T, tokens, mask=mask)).sum()

    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = torch.stack([loss(leaves[0][i], leaves[1], tokens[i], mask[i]) for i in range(2)])
    gradient = torch.autograd.grad(expected.sum(), leaves)
    mapped = torch.func.vmap(loss, in_dims=(0, None, 0, 0))(leaves[0], leaves[1], tokens, mask)
    functional = torch.func.grad(
        lambda h, w: torch.func.vmap(loss, in_dims=(0, None, 0, 0))(h, w, tokens, mask).sum(), argnums=(0, 1)
    )(hidden, weight)
    close(mapped, expected)
    for one, other in zip(torch.autograd.grad(mapped.sum(), leaves), gradient, strict=True):
        close(one, other)
    for one, other in zip(functional, gradient, strict=True):
        close(one, other)
    some = hidden[0].clone().requires_grad_(), weight.clone().requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(*some, tokens[0], mask[0])
    close(compiled, expected[0])
    only = loss(*some, tokens[0], mask[0])
    for one, other in zip(*(torch.autograd.grad(x, some) for x in (compiled, only)), strict=True):
        close(one, other)


X = torch.zeros(2, 3)
NAN = torch.tensor([[0.0, torch.nan, 0.0], [0.0, 0.0, 0.0]])
W = torch.zeros(5, 3)
T = torch.zeros(2, dtype=torch.int64)
REFUSED_TOKENS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: sp.token_log_prob(X.long(), T), TypeError, r"logits as a tensor of real floating.*; got torch\.int64"),
    (lambda: sp.token_log_prob(X, T.float()), TypeError, r"tokens as a tensor of int64; got torch\.float32"),
    (lambda: sp.token_log_prob(X, T[:1]), ValueError, r"tokens in the shape of logits .*, \[2\], .*; got \[1\]"),
    (lambda: sp.token_log_prob(X, T + 3), ValueError, r"tokens from 0 to 2; got 3 at \[0\]\. .*mask=tokens != -100"),
    (lambda: sp.token_log_prob(X, T - 100), ValueError, "tokens from 0 to 2; got -100"),
    (lambda: sp.token_log_prob(NAN, T), ValueError, r"a possible token in each row; .* row \[0\] of logits"),
    (lambda: sp.token_log_prob(X - torch.inf, T), ValueError, "a possible token in each row"),
    (lambda: sp.token_log_prob(X, T, temperature=0.0), ValueError, r"temperature above 0; got 0\.0"),
    (lambda: sp.token_log_prob(X[0, 0], T[0]), ValueError, r"logits \[\.\.\., vocabulary\], .* got shape \[\]"),
    (lambda: sp.token_log_prob(X, T, mask=T), TypeError, r"mask as a tensor of booleans; got torch\.int64"),
    (lambda: sp.sequence_log_prob(X, W.T, T), ValueError, r"weight \[vocabulary, width\]; got \[2, 3\] and \[3, 5\]"),
    (lambda: sp.sequence_log_prob(X, W, T, bias=X[0]), ValueError, r"bias in the shape of the vocabulary, \[5\]"),
    (lambda: sp.sequence_log_prob(X, W, T + 5), ValueError, "tokens from 0 to 4; got 5"),
    (
        lambda: sp.sequence_log_prob(X, W, T, chunk=0),
        ValueError,
        "a whole number of positions to a chunk, at least 1; got .*=0",
    ),
    (lambda: sp.sequence_log_prob(NAN, W, T), ValueError, r"in the row \[0\] of hidden"),
    (lambda: sp.sequence_log_prob(X.tolist(), W, T), TypeError, "hidden as a tensor .* got list"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSED_TOKENS, ids=[match for _, _, match in REFUSED_TOKENS])
def test_refusals_of_the_token_functions(call: Callable[[], Tensor], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"(token|sequence)_log_prob needs .*{match}"):
        call()
