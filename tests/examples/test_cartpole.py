"""The cart and pole of the examples: whole episodes, charged in ways that have the same mean gradient, and learning.

Random tests have fixed seeds. A z-test fails at 5 standard errors, by chance once in 1.7 million; there are four.
"""

import math
import sys
from pathlib import Path

import gymnasium
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # as Python does for a script

import cartpole as example

pytestmark = pytest.mark.slow

Z = 5.0
FALLEN = torch.tensor([2.4, math.inf, 12 * math.pi / 180, math.inf])  # what Gymnasium documents as the end, for |state|


def _play(count: int, act) -> example.Batch:
    torch.manual_seed(0)
    return example.play(gymnasium.make_vec(example.TASK, num_envs=count), act)


def _right(states: Tensor) -> Tensor:
    return torch.ones(len(states))


def _balance(states: Tensor) -> Tensor:
    """Push to where the pole falls, or the cart drifts: it stands for ever."""
    return (states @ torch.tensor([0.1, 0.2, 1.0, 0.5]) > 0).float()


# --- episodes -----------------------------------------------------------------------------------------------------


def test_an_episode_is_one_from_its_start_to_its_end() -> None:
    batch = _play(20, lambda states: torch.bernoulli(torch.full((len(states),), 0.5)))
    lengths = batch.mask.sum(0)
    assert lengths.min() < lengths.max() == len(batch.mask)  # the batch ends with its longest episode
    assert (batch.states[0].abs() <= 0.05).all()
    torch.testing.assert_close(batch.rewards, batch.mask.float(), rtol=0, atol=0)
    for i, length in enumerate(lengths.tolist()):
        assert batch.mask[:length, i].all()
        assert (batch.states[:length, i].abs() < FALLEN).all()
    # Where an episode ended before the batch did, the next state is one that ended it.
    ended = [(length, i) for i, length in enumerate(lengths.tolist()) if length < len(batch.mask)]
    assert all((batch.states[length, i].abs() > FALLEN).any() for length, i in ended)


def test_episodes_are_those_of_single_environments() -> None:
    """The length under a policy without noise, from the same states, by the environment that is no vector."""
    batch = _play(5, _right)
    single = gymnasium.make(example.TASK)
    for i in range(5):
        single.reset(seed=0)
        single.unwrapped.state = batch.states[0, i].double().numpy()
        done, length = False, 0
        while not done:
            _, _, terminated, truncated, _ = single.step(1)
            done, length = terminated or truncated, length + 1
        assert length == batch.mask[:, i].sum()


def test_the_time_limit_ends_an_episode() -> None:
    batch = _play(4, _balance)
    assert batch.rewards.sum(0).tolist() == [example.LIMIT] * 4


# --- gradients ----------------------------------------------------------------------------------------------------


def test_all_ways_but_the_biased_have_one_mean_gradient() -> None:
    """The part of the gradient along a direction that was fixed before, in units of its length; one batch for all
    ways."""
    torch.manual_seed(1)
    agent = example.Agent()
    agent.average.fill_(20.0)
    torch.nn.init.normal_(agent.critic[2].weight, std=0.03)  # a forecast that is wrong, and differs from state to state
    environments = gymnasium.make_vec(example.TASK, num_envs=64)
    parameters = list(agent.policy.parameters())

    def gradient(name: str, batch: example.Batch) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(example.loss(name, agent, batch), parameters)])

    batches = [example.play(environments, agent.act) for _ in range(80)]
    direction = torch.stack([gradient("leave-one-out", batch) for batch in batches[:20]]).mean(0)
    parts = {
        name: torch.stack([gradient(name, batch) @ direction for batch in batches[20:]]).double()
        / direction.square().sum()
        for name in example.ESTIMATORS
    }
    for name in set(parts) - {"leave-one-out", *example.BIASED}:
        difference = parts[name] - parts["leave-one-out"]
        error = difference.std() / math.sqrt(len(difference))
        assert difference.mean().abs() < Z * error
        assert error < 0.12  # what could be seen: 60 % of the gradient; for most ways, 20 %
    assert parts["leave-one-out"].mean() > 0.5
    biased = parts["normalized"]
    assert biased.mean() > Z * biased.std() / math.sqrt(len(biased))  # of the right sign, at least
    # The direction was found on other batches. Less is charged, so the noise falls in this order.
    assert parts["whole-return"].std() > parts["none"].std() > parts["leave-one-out"].std()


def test_the_critic_and_the_policy_do_not_move_each_other() -> None:
    agent = example.Agent()
    batch = _play(4, agent.act)
    example.loss("critic", agent, batch).backward()
    with_critic = [p.grad.clone() for p in agent.policy.parameters()]
    assert all(p.grad.abs().sum() > 0 for p in agent.critic.parameters())
    agent.zero_grad()
    fixed = agent.forecast(batch.states).detach()
    log_prob = agent.law(batch.states).log_prob(batch.actions)
    returns = batch.rewards.flip(0).cumsum(0).flip(0)
    by_hand = -((returns - fixed) * log_prob * batch.mask).sum() / 4
    wanted = torch.autograd.grad(by_hand, list(agent.policy.parameters()))
    torch.testing.assert_close(with_critic, list(wanted), rtol=1e-4, atol=1e-4)


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["leave-one-out", "critic"])
def test_the_return_rises(name: str, tmp_path: Path) -> None:
    """From what a random policy gets, 22."""
    _, history = example.run(name, 0, 12, 12, tmp_path / "run.pt", resume=False)
    assert 15 < history[0]["return"] < 30
    assert history[-1]["return"] > 40


def test_an_interrupted_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    _, whole = example.run("constant", 3, 4, 2, tmp_path / "whole.pt", resume=False)
    example.run("constant", 3, 2, 2, tmp_path / "part.pt", resume=False)
    agent, resumed = example.run("constant", 3, 4, 2, tmp_path / "part.pt", resume=True)
    assert resumed == whole
    assert agent.average > 0


def test_runs_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cartpole.py", "--fast", "--steps", "2", "--out", str(tmp_path)])
    example.main()
    printed = capsys.readouterr().out
    assert [line.split("|")[1].split()[0] for line in printed.splitlines()[2 : 2 + len(example.ESTIMATORS)]] == list(
        example.ESTIMATORS
    )
    assert (tmp_path / "cartpole.png").read_bytes().startswith(b"\x89PNG")
