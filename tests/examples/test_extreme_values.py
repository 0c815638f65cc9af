"""The extreme values of the examples: the published fit, and derivatives of means with a jump in the far tail.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; with 54 comparisons
that is a false alarm once in 30,000 seeds.
"""

import sys
from pathlib import Path

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import genextreme
from torch import Generator, Tensor

import sampleprop as sp

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # as Python does for a script

import extreme_values as example

pytestmark = pytest.mark.slow

FITTED = example.fit(example.SEA_LEVELS)
CRESTS = example.return_level(FITTED.parameters.unsqueeze(1), example.PERIODS)
Z = 5.0


# --- the fit, against Coles (2001), p. 59 and 60, and the digits that R's package ismev prints ---------------------


def test_fit_is_the_published_one() -> None:
    wanted = torch.tensor([3.87474692, 0.19804120, -0.05008773], dtype=torch.float64)
    torch.testing.assert_close(FITTED.parameters, wanted, rtol=0, atol=1e-4)  # by a search without slopes
    assert FITTED.log_likelihood == pytest.approx(4.339058, abs=1e-6)
    covariance = torch.tensor(
        [[0.000780, 0.000197, -0.00107], [0.000197, 0.000410, -0.000778], [-0.00107, -0.000778, 0.00965]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(FITTED.covariance, covariance, rtol=5e-3, atol=0)  # three digits are printed


def test_return_levels_are_the_published_ones() -> None:
    level, error = example.level_with_error(FITTED, torch.tensor([10.0, 100.0], dtype=torch.float64))
    found = torch.stack((level - 1.96 * error, level, level + 1.96 * error), 1)
    wanted = torch.tensor([[4.19, 4.30, 4.41], [4.38, 4.69, 5.00]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=6e-3)


def test_a_fit_without_a_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="a maximum of the likelihood at a shape above -1/2; got"):
        example.fit(torch.linspace(0, 1, 50, dtype=torch.float64).pow(0.2))


# --- the closed form, against scipy's law ------------------------------------------------------------------------


def _mean(quantity: str, parameters: list[float], crest: float) -> float:
    law = genextreme(-parameters[2], parameters[0], parameters[1])
    if quantity == "exceedance":
        return float(law.sf(crest))
    cap = crest + example.DEEPEST
    slope, _ = quad(lambda x: (x - crest) * law.pdf(x), crest, cap, epsabs=1e-14, epsrel=1e-12)
    return example.OVERTOPPED * law.sf(crest) + example.PER_METRE * (slope + example.DEEPEST * law.sf(cap))


@pytest.mark.parametrize("quantity", example.QUANTITIES)
def test_closed_form(quantity: str) -> None:
    exact = example.closed_form(quantity, FITTED.parameters, CRESTS)
    step, p = 1e-4, FITTED.parameters.tolist()
    for column in (0, 4, 8):
        crest = CRESTS[column].item()
        for row in range(3):
            up, down = ([x + s * (i == row) for i, x in enumerate(p)] for s in (step, -step))
            difference = (_mean(quantity, up, crest) - _mean(quantity, down, crest)) / (2 * step)
            assert exact[row, column].item() == pytest.approx(
                difference, rel=1e-4
            )  # of order step² times the curvature


# --- the estimators -----------------------------------------------------------------------------------------------


def _measure(name: str, quantity: str, crests: Tensor, count: int = 300) -> example.Found:
    return example.measure(name, quantity, FITTED.parameters, crests, count, 500, Generator().manual_seed(1))


@pytest.mark.parametrize("quantity", example.QUANTITIES)
@pytest.mark.parametrize(("name", "columns"), [("score", 3), ("importance", 9)])
def test_unbiased(name: str, columns: int, quantity: str) -> None:
    """The score function where it sees something, importance sampling as far out as one year in 100,000."""
    exact = example.closed_form(quantity, FITTED.parameters, CRESTS)[:, :columns]
    found = _measure(name, quantity, CRESTS[:columns])
    assert ((found.mean - exact) / found.error).abs().max() < Z
    assert (found.error / exact.abs()).max() < 0.1  # what could be seen: an error of less than a half


def test_far_out_the_score_function_sees_nothing() -> None:
    """At a crest passed once in 10,000 years five estimates of 500 years each in a hundred see one."""
    exact = example.closed_form("exceedance", FITTED.parameters, CRESTS)
    score, importance = (_measure(name, "exceedance", CRESTS) for name in ("score", "importance"))
    assert (score.blind[:2] == 0).all()
    assert score.blind[6] > 0.9
    assert (importance.blind == 0).all()
    needed = [example.evaluations_for_a_percent(exact, found, 500)[4] for found in (score, importance)]
    assert needed[0] / needed[1] > 3000


def test_pathwise_does_not_see_the_jump() -> None:
    with pytest.raises(RuntimeError, match="Pathwise needs a cost that is differentiable in x; got one with no path"):
        _measure("pathwise", "exceedance", CRESTS[:1])
    exact = example.closed_form("damage", FITTED.parameters, CRESTS[:1])
    found = _measure("pathwise", "damage", CRESTS[:1])
    assert ((found.mean - exact) / found.error).max() < -20
    assert (found.mean / exact).max() < 0.7


def test_check_finds_the_jump_at_a_low_crest() -> None:
    crest = example.return_level(FITTED.parameters, torch.tensor(2.0, dtype=torch.float64))
    q = example.law(FITTED.parameters.clone().requires_grad_())
    report = sp.check(lambda x: example.damage(x, crest), q, sp.Pathwise())
    assert "jump in f" in [finding.name for finding in report.findings]


def test_error_of_the_damage_by_estimated_derivatives() -> None:
    """The delta method with the gradient of importance sampling in place of the exact one."""
    exact = example.closed_form("damage", FITTED.parameters, CRESTS)
    found = _measure("importance", "damage", CRESTS)
    wanted = example.delta_method(exact, FITTED)
    torch.testing.assert_close(example.delta_method(found.mean, FITTED), wanted, rtol=0.05, atol=0)


# --- the script ---------------------------------------------------------------------------------------------------


def test_runs_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "extreme.png"
    arguments = ["--fast", "--samples", "50", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", ["extreme_values.py", *arguments])
    example.main()
    printed = capsys.readouterr().out
    assert "pathwise, exceedance: refused." in printed
    assert "| damage, 10,000 years |" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
