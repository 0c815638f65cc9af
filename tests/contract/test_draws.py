"""The draws of every estimator: what they hold, what decides them, and what they survive."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Generator

import sampleprop as sp
from contract.cases import ATTACHED, BATCH, CASES, DETACHED, over, tell, tensors
from kinds import Kind, estimate, gradients, theta
from sampleprop import families


@over(CASES)
def test_draw_is_detached_where_f_may_be_a_black_box(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    draw = variant.propose(kind.dist(kind.phi(BATCH)))
    attached = [field for field in tensors(draw) if field.requires_grad]
    assert all(field is draw.points for field in attached)
    assert not attached or variant.needs != "black box"


@over([(variant, kind) for variant, kind in CASES if variant.exact_forward])
def test_points_are_true_samples(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    dist = kind.dist(kind.phi(BATCH))
    points = variant.propose(dist).points
    assert points.dtype == dist.sample().dtype
    assert points.shape[1:] == dist.batch_shape + dist.event_shape
    assert (kind.law or kind.dist)(kind.phi(BATCH)).log_prob(points).isfinite().all()
    assert families.unwrap(dist)[0].support.check(points).all()


@over(CASES)
def test_the_generator_decides_and_the_global_random_state_stays(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        phi, weights = kind.phi(BATCH), theta()
        value = estimate(variant, kind, phi, weights, seed=7)
        results.append((value, *gradients(value, phi, weights)))
        assert torch.equal(before, torch.get_rng_state())
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@over(CASES)
def test_ask_and_tell_is_expect(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    by_hand = tell(variant, kind, phi, variant.propose(kind.dist(phi), generator=Generator().manual_seed(3)))
    at_once = estimate(variant, kind, phi, theta(), seed=3)
    torch.testing.assert_close(by_hand, at_once)
    torch.testing.assert_close(*(gradients(value, phi)[0] for value in (by_hand, at_once)))


@over(DETACHED)
def test_draw_survives_no_grad_saving_and_pickling(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    draw = variant.propose(kind.dist(phi), generator=Generator().manual_seed(3))
    with torch.no_grad():
        quiet = variant.propose(kind.dist(phi), generator=Generator().manual_seed(3))
    file = io.BytesIO()
    torch.save(draw, file)
    file.seek(0)
    others = [quiet, torch.load(file, weights_only=False), pickle.loads(pickle.dumps(draw))]
    expected = tell(variant, kind, phi, draw)
    (expected_gradient,) = gradients(expected, phi)
    for other in others:
        found = tell(variant, kind, phi, other)
        assert torch.equal(expected, found)
        assert torch.equal(expected_gradient, gradients(found, phi)[0])


@over(ATTACHED)
def test_points_that_lost_their_path_are_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    with torch.no_grad():
        draw = variant.propose(kind.dist(phi))
    with pytest.raises(RuntimeError, match=f"{variant.name} needs points that are attached to φ"):
        tell(variant, kind, phi, draw)


@over(CASES)
def test_combine_is_deterministic_and_changes_nothing(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    estimator = copy.deepcopy(variant).train(not variant.moves)  # an average moves at the end of a backward pass
    state = copy.deepcopy(estimator.state_dict())
    phi = kind.phi(BATCH)
    draw = variant.propose(kind.dist(phi))
    kept = [field.detach().clone() for field in tensors(draw)]
    random_state = torch.get_rng_state()
    first, second = tell(estimator, kind, phi, draw), tell(estimator, kind, phi, draw)
    assert torch.equal(first, second)
    again = torch.autograd.grad(first.sum(), phi, retain_graph=True)[0]
    assert torch.equal(again, gradients(second, phi)[0])
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(kept, tensors(draw), strict=True))
    assert all(torch.equal(state[key], now) for key, now in estimator.state_dict().items())
