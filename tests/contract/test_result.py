"""The result of every estimator: its shape, its precision and the separation of the rows, for every kind of
variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import sampleprop as sp
from contract.cases import BATCH, CASES, EACH, FREE, once, over
from kinds import GAMMA, Kind, cost, estimate, gradients, theta
from robustness.subject import unchecked
from sampleprop import noise


@over(CASES)
def test_result_has_the_batch_shape_and_finite_gradients(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    value = estimate(variant, kind, phi, weights)
    assert value.shape == (BATCH,)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(value, phi, weights))


@over(FREE)
def test_batch_of_two_dimensions(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(2, 3)
    value = estimate(variant, kind, phi, theta())
    (gradient,) = gradients(value, phi)
    assert value.shape == (2, 3)
    assert gradient.isfinite().all()


@over(once(FREE))
def test_no_batch(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """Every pair without a batch: the tests of `vmap`."""
    phi = kind.phi()
    value = estimate(variant, kind, phi, theta())
    (gradient,) = gradients(value, phi)
    assert value.shape == ()
    assert gradient.isfinite().all()


@over(CASES)
def test_empty_batch(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(0), theta()
    with unchecked():
        value = estimate(variant, kind, phi, weights)
    assert value.shape == (0,)
    by_phi, by_theta = gradients(value, phi, weights)
    assert by_phi.shape == phi.shape
    assert torch.equal(by_theta, torch.zeros(2))


@over(CASES)
def test_rows_of_a_batch_are_separate(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """The cost of one row moves neither value nor gradient of another."""
    phi, weights = kind.phi(BATCH), theta()
    event_ndim = len(kind.dist(phi).event_shape)

    def result(factor: Tensor) -> tuple[Tensor, Tensor]:
        value = sp.expect(
            lambda x: factor * cost(x, weights, event_ndim),
            kind.dist(phi),
            variant,
            generator=Generator().manual_seed(0),
        )
        return value, gradients(value, phi)[0]

    plain, changed = result(torch.ones(BATCH)), result(torch.ones(BATCH).index_fill(0, torch.tensor(2), 7.0))
    others = torch.arange(BATCH) != 2
    torch.testing.assert_close(plain[0][others], changed[0][others])
    torch.testing.assert_close(plain[1][others], changed[1][others])
    assert not torch.equal(plain[0][2], changed[0][2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@over(
    once([(variant, kind) for variant, kind in CASES if kind is not GAMMA])
)  # which torch draws in full precision only
def test_parameters_of_other_precision(variant: sp.Estimator[Any, Any], kind: Kind, dtype: torch.dtype) -> None:
    phi, weights = kind.phi(BATCH, dtype=dtype), theta(dtype)
    value = estimate(variant, kind, phi, weights)
    by_phi, by_theta = gradients(value, phi, weights)
    assert value.dtype == noise.working_dtype(dtype)
    assert (by_phi.dtype, by_theta.dtype) == (dtype, dtype)
    assert by_phi.isfinite().all()
    assert by_theta.isfinite().all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@over(EACH)
def test_without_gradients(variant: sp.Estimator[Any, Any], kind: Kind, mode: Callable[[], Any]) -> None:
    with mode():
        value = estimate(variant, kind, kind.phi(BATCH), theta())
    assert not value.requires_grad
    torch.testing.assert_close(value.clone(), estimate(variant, kind, kind.phi(BATCH), theta()).detach())


@over(EACH)
def test_context_is_accepted(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    value = estimate(variant, kind, kind.phi(BATCH), theta(), context=torch.randn(BATCH, 2))
    assert value.shape == (BATCH,)


@over(CASES)
def test_what_f_writes_into_its_input_changes_nothing(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """By numpy, which torch does not notice: neither the gradient nor φ itself."""
    found = []
    for writes in (False, True):
        phi, weights = kind.phi(BATCH), theta()
        before, event_ndim = phi.detach().clone(), len(kind.dist(phi).event_shape)

        def f(x: Tensor, weights: Tensor = weights, event_ndim: int = event_ndim, writes: bool = writes) -> Tensor:
            costs = cost(x.clone(), weights, event_ndim)
            if writes and not x.requires_grad:
                x.numpy()[...] = 0
            return costs

        torch.manual_seed(0)
        value = sp.expect(f, kind.dist(phi), variant)
        found.append((value.detach(), *gradients(value, phi)))
        assert torch.equal(phi.detach(), before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
