"""Sums of products over the samples and over the event, by products of matrices and by numbers."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sampleprop import sums

SHAPES = [((), (1500,)), ((2,), (700,)), ((2, 3), (20, 11)), ((3,), (5, 4, 30)), ((20_000,), ()), ((0,), (2000,))]


def made(batch: tuple[int, ...], event: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [k, *batch], points [k, *batch, *event] and a direction [*batch, *event] for 20,000 numbers and more."""
    generator = torch.Generator().manual_seed(0)
    weights, x, y = (
        torch.randn(shape, generator=generator, dtype=dtype)
        for shape in ((20, *batch), (20, *batch, *event), (*batch, *event))
    )
    return weights, x, y


class Products(TorchDispatchMode):
    """Counts the products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func).startswith(("aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.addm"))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("batch", "event"), SHAPES, ids=str)
def test_they_are_the_sums_of_the_products(batch: tuple[int, ...], event: tuple[int, ...]) -> None:
    weights, x, y = made(batch, event, torch.float64)
    dims = tuple(range(-len(event), 0))
    over_samples = (weights.reshape(*weights.shape, *(1,) * len(event)) * x).sum(0)
    over_event = (x * y).sum(dims) if event else x * y
    torch.testing.assert_close(sums.over_samples(weights, x), over_samples)
    torch.testing.assert_close(sums.over_event(x, y, len(event)), over_event)
    transposed = x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 2 else x
    torch.testing.assert_close(sums.over_samples(weights, transposed), over_samples)
    torch.testing.assert_close(sums.over_event(transposed, y, len(event)), over_event)


@pytest.mark.parametrize(
    ("dtype", "setting", "count"),
    [(torch.float32, "highest", 2), (torch.float32, "high", 0), (torch.float64, "high", 2)],
)
def test_no_product_of_matrices_that_would_be_rounded(
    dtype: torch.dtype, setting: str, count: int, precision: None
) -> None:
    torch.set_float32_matmul_precision(setting)
    weights, x, y = made((), (1500,), dtype)
    with Products() as products:
        sums.over_samples(weights, x)
        sums.over_event(x, y, 1)
    assert products.count == count


def test_none_under_autocast() -> None:
    weights, x, y = made((), (1500,), torch.float32)
    with torch.autocast("cpu"), Products() as products:
        sums.over_samples(weights, x)
        sums.over_event(x, y, 1)
    assert products.count == 0


@pytest.mark.parametrize(
    ("batch", "states"), [((), 64), ((), 2_000), ((1,), 2_000), ((3,), 64), ((500,), 64), ((20, 30), 64)]
)
def test_states_that_all_of_the_batch_share(batch: tuple[int, ...], states: int) -> None:
    """The product of numbers, with both derivatives, where 0 times -inf is 0; large ones by products of matrices."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(*batch, 5, 2, generator=generator, dtype=torch.float64)
    y[..., 3, 0] = -torch.inf
    y.requires_grad_()
    x = (torch.rand(states, *(1 for _ in batch), 5, 2, generator=generator) < 0.3).double()
    with Products() as products:
        found = sums.with_impossible(x, y, 2)
    assert (products.count > 0) == (len(y.flatten()) * states >= 20_000)
    expected = (x * torch.where(x != 0, y, 0.0)).sum((-2, -1))
    torch.testing.assert_close(found, expected)
    assert bool((found == -torch.inf).any())
    assert bool(found.isfinite().any())
    derivatives = []
    for value in (found, expected):
        (first,) = torch.autograd.grad(value.exp().sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), y)
        derivatives.append((first.detach(), second))
    for one, other in zip(*derivatives, strict=True):
        torch.testing.assert_close(one, other)
