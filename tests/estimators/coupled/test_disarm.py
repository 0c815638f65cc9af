"""ARM and DisARM: DisARM is ARM with the noise averaged out; both are exact in the mean, and pairs are kept whole.

Everything is exact: integrals over the noise on a grid, and identities.
"""

import math

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from estimators.coupled.replicates import bernoullis, combined, exact, gradients, rough
from sampleprop.estimators.coupled import arm as arm_file
from sampleprop.estimators.coupled import disarm as disarm_file
from sampleprop.estimators.coupled.arm import ARM
from sampleprop.estimators.coupled.disarm import DisARM


@pytest.fixture(scope="module")
def integrated() -> tuple[Tensor, Tensor, Tensor]:
    """Pairs, ARM's and DisARM's gradients at the midpoints of a 256 x 256 grid of u, [65536, 2] each.

    The probabilities are multiples of 1/256, so no cell is cut and sums over the grid are exact integrals of what is
    piecewise linear in u.
    """
    cells = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    u = torch.cartesian_prod(cells, cells)
    p = torch.tensor([64 / 256, 160 / 256], dtype=torch.float64)
    logits = torch.logit(p).expand_as(u)
    points = torch.stack([u > 1 - p, u < p]).to(torch.float64)  # [2, 65536, 2]
    costs = rough(points)
    arm = combined(ARM(), arm_file.Draw(points, u.unsqueeze(0)), logits, bernoullis, costs)
    disarm = combined(
        DisARM(), disarm_file.Draw(points, (points[0] - points[1]).unsqueeze(0)), logits, bernoullis, costs
    )
    return points, arm, disarm


def test_disarm_is_the_mean_of_arm_given_the_pair(integrated: tuple[Tensor, Tensor, Tensor]) -> None:
    points, arm, disarm = integrated
    codes = (points.permute(1, 0, 2).flatten(1) * torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).sum(-1)
    pairs = codes.unique()
    assert len(pairs) == 9  # each variable: both 0 or both 1 (one of the two), or either order of 0 and 1
    for pair in pairs:
        where = codes == pair
        torch.testing.assert_close(arm[where].mean(0), disarm[where].mean(0), rtol=0, atol=1e-12)
        assert disarm[where].std(0).max() < 1e-12


def test_arm_and_disarm_integrate_to_the_exact_gradient(integrated: tuple[Tensor, Tensor, Tensor]) -> None:
    _, arm, disarm = integrated
    gradient = exact(torch.logit(torch.tensor([64 / 256, 160 / 256], dtype=torch.float64)), bernoullis, rough)
    torch.testing.assert_close(arm.mean(0), gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(disarm.mean(0), gradient, rtol=0, atol=1e-12)


def test_disarm_has_less_variance_than_arm(integrated: tuple[Tensor, Tensor, Tensor]) -> None:
    _, arm, disarm = integrated
    assert (disarm.var(0) < arm.var(0)).all()


def test_saturated_bernoullis_are_certain_and_have_no_gradient() -> None:
    logits = torch.tensor([40.0, -200.0, 1e4, -1e4, math.inf, -math.inf, 0.3])
    gradient = gradients(DisARM(), logits, bernoullis, rough, 1000, seed=13)
    assert torch.equal(gradient[:, 1:6], torch.zeros(1000, 5))
    assert gradient.isfinite().all()
    assert gradient[:, 6].abs().max() > 0


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("make", [ARM, DisARM])
def test_odd_numbers_of_samples_are_refused(make: type[sp.Estimator], number: int) -> None:
    with pytest.raises(ValueError, match=f"needs an even number of samples, at least 2; got samples={number}"):
        make(number)
