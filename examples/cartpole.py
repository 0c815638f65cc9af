"""A pole balanced by REINFORCE: what each baseline does to it.

The task is Gymnasium's CartPole-v1: a reward of 1 for each step on which the pole stands, at most 500 steps. Solved
means a mean return of 475 or more over 100 episodes (a random policy gets 22).

Each step of the optimizer plays one whole episode in each of 16 environments at once and takes the score-function
gradient of the mean return. The ways to do it differ in what an action is charged with:

- whole-return: all rewards of its episode, also those before it, which it had no part in.
- none: the rewards from it on.
- constant: the same, less an average of earlier steps of the training.
- leave-one-out: less the mean of the other environments at the same time.
- critic: less the forecast of a network that sees the state and the time.
- gae: advantages by λ-returns of a network that sees the state alone, λ = 0.95, of the discounted rewards without a
  limit: an episode that still stands when its time is up is truncated, not terminated. Biased as far as the network
  errs, and of another objective than the others.
- normalized: less the mean of all, divided by their standard deviation. Usual in practice, and biased: both contain
  the action's own return, and long episodes weigh more in both.

All but the last two have the same mean gradient. Run:

    python examples/cartpole.py                                          # one seed each, some minutes
    python examples/cartpole.py --estimator leave-one-out critic --seeds 5
    python examples/cartpole.py --fast                                   # seconds: the return rises, no more
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.distributions import Bernoulli

import sampleprop as sp
import training

TASK = "CartPole-v1"
LIMIT = 500  # steps, after which the task cuts an episode short
SOLVED = 475
ENVIRONMENTS, EVALUATED = 16, 100  # episodes for one step of the optimizer, and for one measurement
HIDDEN = 64
RATE = 1e-2  # of Adam, the same for all ways and both networks
DISCOUNT, TRACE = 0.99, 0.95  # γ and λ, of `gae`
KEPT = 0.9  # of the average of earlier returns, at each step
STEPS, EVERY = 150, 10  # of the optimizer, and from one measurement to the next
COMPARED_AFTER, COMPARED = 20, 200  # steps after which the noise of all ways is compared, and batches for that


class Batch(NamedTuple):
    states: Tensor  # [time, environments, 4], each before its action
    actions: Tensor  # [time, environments], 0. or 1.
    rewards: Tensor  # [time, environments]
    mask: Tensor  # [time, environments], False after the end of the episode
    after: Tensor  # [time, environments, 4], the state after each action: at the end the last one of the episode
    terminated: Tensor  # [time, environments], the pole fell
    truncated: Tensor  # [time, environments], the time was up


class Agent(nn.Module):
    """A policy, and what the baselines remember."""

    average: Tensor  # of earlier returns
    played: Tensor  # steps in the environments

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(4, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1), nn.Flatten(-2))
        self.critic = nn.Sequential(nn.Linear(5, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1), nn.Flatten(-2))
        self.register_buffer("average", torch.tensor(0.0))
        self.register_buffer("played", torch.tensor(0))

    def law(self, states: Tensor) -> Bernoulli:
        return Bernoulli(logits=self.policy(states))

    def act(self, states: Tensor) -> Tensor:
        return torch.bernoulli(self.policy(states).sigmoid())

    def remember(self, batch: Batch) -> None:
        """After the gradient: an average that knows a batch depends on the actions in it."""
        self.average.lerp_(sp.reward_to_go(batch.rewards, dim=0)[batch.mask].mean(), 1 - KEPT)
        self.played += batch.mask.sum()

    def forecast(self, states: Tensor) -> Tensor:
        """What the critic expects from each state on. What a state is worth under a time limit depends on the time
        left."""
        time = torch.arange(len(states)).div(LIMIT).view(-1, 1, 1).expand(*states.shape[:-1], 1)
        return LIMIT / 5 * self.critic(torch.cat((states, time), -1))

    def value(self, states: Tensor) -> Tensor:
        """The same without a limit, with a discount: the time does not matter."""
        return self.critic(torch.cat((states, torch.zeros_like(states[..., :1])), -1)) / (1 - DISCOUNT)


@torch.no_grad()
def play(environments: VectorEnv[Any, Any, Any], act: Callable[[Tensor], Tensor]) -> Batch:
    """One whole episode in each environment, so that no return is cut off by the end of a batch.

    An environment that is done resets itself at the next step and would begin another episode: from there on it is
    masked. Its first episodes alone are kept, whatever their length; to keep those that end first would favour short
    ones.

    An episode ends where the pole falls or where the time is up. The latter is part of this task, whose return is what
    500 steps give, and so nothing is added for what would have come. For the return without a limit, the critic's
    forecast of the state after the last step would be part of the last reward, and neglecting it a bias.
    """
    states, _ = environments.reset(seed=int(torch.randint(2**31, ())))  # torch's noise is all noise there is
    steps, alive = [], torch.ones(environments.num_envs, dtype=torch.bool)
    while alive.any():
        before = torch.as_tensor(states)
        action = act(before)
        states, reward, *ends, _ = environments.step(action.long().numpy())
        terminated, truncated = map(torch.as_tensor, ends)
        after = torch.as_tensor(states)  # of an environment that is done: it resets itself one step later
        reward = torch.as_tensor(reward).float() * alive
        steps.append(Batch(before, action, reward, alive, after, terminated, truncated))
        alive = alive & ~(terminated | truncated)
    return Batch(*(torch.stack(column) for column in zip(*steps, strict=True)))


# --- the ways to charge: from log-probabilities [time, environments] to the loss, costs being rewards with a minus ----


def whole_return(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    return sp.score_function_loss(log_prob, -batch.rewards.sum(0), time_dim=0, mask=batch.mask)


def none(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    return sp.score_function_loss(log_prob, -batch.rewards, time_dim=0, mask=batch.mask)


def constant(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    baseline = -agent.average.expand_as(log_prob)
    return sp.score_function_loss(log_prob, -batch.rewards, baseline=baseline, time_dim=0, mask=batch.mask)


def leave_one_out(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    return sp.score_function_loss(
        log_prob, -batch.rewards, baseline="leave-one-out", group_dim=1, time_dim=0, mask=batch.mask
    )


def critic(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    forecast = agent.forecast(batch.states)
    error = (forecast - sp.reward_to_go(batch.rewards, dim=0))[batch.mask] / LIMIT
    loss = sp.score_function_loss(log_prob, -batch.rewards, baseline=-forecast.detach(), time_dim=0, mask=batch.mask)
    return loss + error.square().mean()  # two sets of parameters: neither term reaches those of the other


def gae(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    value = agent.value(batch.states)
    found = sp.generalized_advantage(
        batch.rewards, value.detach(), agent.value(batch.after).detach(), dim=0, discount=DISCOUNT, trace=TRACE,
        terminated=batch.terminated, truncated=batch.truncated, mask=batch.mask,
    )  # fmt: skip
    error = (value - found.target)[batch.mask] * (1 - DISCOUNT)
    loss = sp.score_function_loss(log_prob, -found.advantage, as_weights=True, time_dim=0, mask=batch.mask)
    return loss + error.square().mean()


def normalized(agent: Agent, batch: Batch, log_prob: Tensor) -> Tensor:
    returns = sp.reward_to_go(batch.rewards, dim=0)
    mean, deviation = returns[batch.mask].mean(), returns[batch.mask].std()
    weights = torch.where(batch.mask, (mean - returns) / deviation, 0)
    return sp.score_function_loss(log_prob, weights, as_weights=True, time_dim=0, mask=batch.mask)


Loss = Callable[[Agent, Batch, Tensor], Tensor]
ESTIMATORS: dict[str, Loss] = {
    "whole-return": whole_return,
    "none": none,
    "constant": constant,
    "leave-one-out": leave_one_out,
    "critic": critic,
    "gae": gae,
    "normalized": normalized,
}
BIASED = ("gae", "normalized")


def loss(name: str, agent: Agent, batch: Batch) -> Tensor:
    return ESTIMATORS[name](agent, batch, agent.law(batch.states).log_prob(batch.actions))


def run(name: str, seed: int, steps: int, every: int, path: Path, resume: bool) -> tuple[Agent, training.History]:
    """Train one policy; the history has the mean return of fresh episodes, and how many steps were played by then."""
    torch.manual_seed(seed)
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=RATE)
    environments = gymnasium.make_vec(TASK, num_envs=ENVIRONMENTS)
    evaluated = gymnasium.make_vec(TASK, num_envs=EVALUATED)

    def step() -> None:
        batch = play(environments, agent.act)
        optimizer.zero_grad()
        loss(name, agent, batch).backward()
        optimizer.step()
        agent.remember(batch)

    def measure() -> dict[str, float]:
        return {"return": float(play(evaluated, agent.act).rewards.sum(0).mean()), "played": float(agent.played)}

    history = training.train(
        f"{name}, seed {seed}", step, measure, steps, every=every, state={"agent": agent, "optimizer": optimizer},
        path=path, settings={"estimator": name, "seed": seed, "every": every}, resume=resume,
    )  # fmt: skip
    return agent, history


def noise(agent: Agent, names: list[str], batches: int) -> dict[str, float]:
    """Of the policy's gradient, all ways on the same batches: its variance over the squared length of its mean."""
    parameters = list(agent.policy.parameters())
    environments = gymnasium.make_vec(TASK, num_envs=ENVIRONMENTS)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for _ in range(batches):
        batch = play(environments, agent.act)
        for name in names:
            gradient = torch.autograd.grad(loss(name, agent, batch), parameters)
            found[name].append(torch.cat([g.flatten() for g in gradient]))
    ratios = {}
    for name, gradients in found.items():
        stacked = torch.stack(gradients)  # [batches, parameters]
        variance = float(stacked.var(0).sum())
        # The squared length of a mean over batches is too long by the variance that is left in it.
        ratios[name] = variance / (float(stacked.mean(0).square().sum()) - variance / batches)
    return ratios


def row(name: str, runs: list[training.History], ratio: float) -> list[str]:
    """Of the table: what was reached, by how many seeds, when, and the worst that was measured afterwards."""
    firsts = [next((i for i, r in enumerate(run) if r["return"] >= SOLVED), None) for run in runs]
    solved = [(run, first) for run, first in zip(runs, firsts, strict=True) if first is not None]
    return [
        name + (" (biased)" if name in BIASED else ""),
        training.mean_and_error([run[-1]["return"] for run in runs]),
        f"{sum(run[-1]['return'] >= SOLVED for run in runs)} of {len(runs)}",
        training.mean_and_error([run[first]["step"] for run, first in solved]) if solved else "-",
        training.mean_and_error([run[first]["played"] / 1000 for run, first in solved]) if solved else "-",
        f"{min(r['return'] for run, first in solved for r in run[first:]):.0f}" if solved else "-",
        f"{ratio:.2f}",
    ]


def main() -> None:
    parser = training.parser("cartpole", __doc__, ESTIMATORS, images=False)
    arguments = parser.parse_args()
    names = training.chosen(arguments, ESTIMATORS)
    steps = arguments.steps or (10 if arguments.fast else STEPS)
    histories: dict[str, list[training.History]] = {}
    for name in names:
        for seed in training.seeds(arguments):
            path = arguments.out / f"{name}-{seed}.pt"
            histories.setdefault(name, []).append(run(name, seed, steps, EVERY, path, arguments.resume)[1])
    # One policy, and one critic, for all: of a short training by the critic.
    path = arguments.out / "compared.pt"
    agent, _ = run("critic", arguments.seed, min(steps, COMPARED_AFTER), EVERY, path, arguments.resume)
    ratios = noise(agent, names, 10 if arguments.fast else COMPARED)
    head = (
        "charged with",
        "return at the end",
        "solved",
        "first after",
        "thousand steps played",
        "worst since",
        "noise",
    )
    print(training.table(head, [row(name, runs, ratios[name]) for name, runs in histories.items()]))
    picture = arguments.out / "cartpole.png"
    training.curves(picture, histories, {"return": f"mean return of {EVALUATED} episodes"}, BIASED)
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
