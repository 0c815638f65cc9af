"""The examples that are programs: their gradient is that of their bound, and each script runs in its fast mode."""

import sys
from pathlib import Path

import pytest
import torch

import sampleprop as sp
from sampleprop.programs import forced

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # as Python does for a script: its neighbours are modules

import epidemic  # noqa: E402
import stochastic_network  # noqa: E402
import training  # noqa: E402

pytestmark = pytest.mark.slow


def test_the_loss_of_the_network_is_its_negative_bound():
    """By every path of a small one; `log_weights` samples it."""
    torch.manual_seed(0)
    network = stochastic_network.Network(3, 2, lambda pixels: sp.ScoreFunction(None)).double()
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    found = forced.exact(network.negative_elbo, (x,), {}, network.model())
    assert found.paths == 16
    with torch.no_grad():
        elbo, bound = training.bounds(network.log_weights, x, 20_000)
    assert abs(elbo + float(found.value)) < 0.05
    assert bound > elbo


@pytest.mark.parametrize("name", stochastic_network.ESTIMATORS)
def test_each_estimator_gives_every_parameter_a_gradient(name):
    torch.manual_seed(0)
    make, particles = stochastic_network.ESTIMATORS[name]
    network = stochastic_network.Network(9, 4, make)
    loss = network.negative_elbo.using(particles=particles) if particles > 1 else network.negative_elbo
    loss(torch.randint(2, (5, 9)).float()).mean().backward()
    assert all(parameter.grad is not None for parameter in network.model())
    assert stochastic_network.log_variance(network, loss, torch.ones(3, 9)) < 10


def test_the_network_is_trained_from_the_command_line(tmp_path, monkeypatch, capsys):
    arguments = ["--fast", "--steps", "3", "--width", "5", "--estimator", "REBAR", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["stochastic_network.py", *arguments])
    stochastic_network.main()
    assert "| REBAR" in capsys.readouterr().out
    assert (tmp_path / "digits.png").exists()


def test_the_epidemic_is_fitted_from_the_command_line(monkeypatch, capsys):
    torch.manual_seed(0)
    monkeypatch.setattr(sys, "argv", ["epidemic.py", "--fast", "--people", "6"])
    epidemic.main()
    printed = capsys.readouterr().out
    assert "something is wrong" not in printed
    assert "exact, by 71 paths" in printed
    assert printed.count("fitted by") == 2


def test_the_gradient_of_the_small_town_is_right_by_all_its_paths():
    """Both ways to it, over 1,500 calls; 4.9 standard errors, a false-alarm rate of 1e-6 for each number."""
    torch.manual_seed(0)
    rates = [torch.tensor(value, requires_grad=True) for value in epidemic.TRUE.values()]
    town = epidemic.three_days()
    right = torch.stack(forced.exact(town, rates, {}, rates).gradients)
    for way in (town.using(apart=4), town.using(sp.CoupledReplay(2))):
        found = torch.stack([torch.stack(torch.autograd.grad(way(*rates), rates)) for _ in range(1500)])
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - right).abs() / error).max() < 4.9
