"""The softmax over few classes has torch's values and derivatives."""

import pytest
import torch

from sampleprop.softmax import FEW, MANY, log_softmax, softmax, softmax_backward

SHAPES = [(MANY // 3 + 1, 3), (7, 20, 10), (40, FEW - 1, 2), (100, FEW), (4, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("ours", "plain"), [(softmax, torch.softmax), (log_softmax, torch.log_softmax)])
def test_values_and_two_derivatives(shape, ours, plain) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (5 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    y = torch.randn(shape, generator=generator, dtype=torch.float64)
    values, expected = ours(x), plain(x, -1)
    assert values.is_contiguous()
    assert torch.allclose(values, expected, rtol=1e-13)
    for _ in range(2):
        (first,) = torch.autograd.grad((values * y).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((expected * y).sum(), x, create_graph=True)
        assert torch.allclose(first, second, rtol=1e-12)
        values, expected = first, second


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_backward_pass_alone(shape) -> None:
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    y = torch.randn(shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(x.softmax(-1), x, y)
    assert torch.allclose(softmax_backward(y, softmax(x.detach())), expected, rtol=1e-12, atol=1e-15)


def test_under_vmap_and_float16() -> None:
    x = torch.randn(3, 150, 10)
    assert torch.allclose(torch.vmap(softmax)(x), x.softmax(-1), rtol=1e-6)
    assert softmax(x.half()).dtype == torch.float16
