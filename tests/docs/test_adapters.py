"""The adapters on the page "Language models" for trainers of other people.

Where a trainer is installed, its own register or class is used. Otherwise a stand-in of its published interface is:
for verl `register_adv_est` and the call of an advantage estimator, for TRL the names that `GRPOTrainer._compute_loss`
has at hand.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

import sampleprop as sp

PAGE = Path(__file__).parents[2] / "docs" / "language_models.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def run(word: str) -> dict[str, Any]:
    (block,) = (block for block in BLOCKS if word in block)
    scope: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), scope)
    return scope


def in_place_of(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """A module of this name, with its parents, that has these attributes."""
    parts = name.split(".")
    for i in range(len(parts)):
        module = ModuleType(".".join(parts[: i + 1]))
        if i == len(parts) - 1:
            for key, value in attributes.items():
                setattr(module, key, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def verl(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Tensor, Tensor]]:
    registered: dict[str, Any] = {}

    def register_adv_est(name: str) -> Any:
        return lambda function: registered.setdefault(name, function)

    if not installed("verl"):
        in_place_of(monkeypatch, "verl.trainer.ppo.core_algos", register_adv_est=register_adv_est)
        run("verl")
        return registered["sampleprop"]  # type: ignore[no-any-return]
    run("verl")
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    return get_adv_estimator_fn("sampleprop")  # type: ignore[no-any-return]


def test_the_advantage_estimator_for_verl(monkeypatch: pytest.MonkeyPatch) -> None:
    function = verl(monkeypatch)
    rewards = torch.tensor([[0.0, 1, 0], [0, 0, 3], [2, 0, 0], [0, 5, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 0]])  # the last reward of draw 1 follows a tool
    index = numpy.array(["b", "a", "b", "a"], dtype=object)
    advantage, returns = function(token_level_rewards=rewards, response_mask=mask, index=index, config=None)
    assert advantage.tolist() == [[-1, 1, 0], [-2, 0, 3], [1, 0, 0], [2, 2, 0]]
    assert returns[1].tolist() == [3, 3, 3]
    audited = sp.audit(
        lambda token_level_rewards, response_mask, groups: function(
            token_level_rewards, response_mask.double(), groups.numpy()
        ),
        group_sizes=[2],
        worlds=sp.diagnostics.TOOLS,
    )
    assert audited.worst < 1e-9


def trl(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not installed("trl"):
        in_place_of(monkeypatch, "trl", GRPOTrainer=object)
    return run("trl")["ScoreTrainer"]


def test_the_loss_for_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = trl(monkeypatch)
    trainer = kind.__new__(kind)  # a trainer needs a model, a tokenizer and data; the loss needs none of them
    log_prob = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    trainer._get_per_token_logps_and_entropies = lambda model, ids, attention, keep: (log_prob, None, None)
    trainer.current_gradient_accumulation_steps = 2
    tokens, ones = torch.zeros(4, 2, dtype=torch.int64), torch.ones(4, 2, dtype=torch.int64)
    completion = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]])
    inputs = {
        "prompt_ids": tokens,
        "prompt_mask": ones,
        "completion_ids": torch.zeros(4, 3, dtype=torch.int64),
        "completion_mask": completion,
        "tool_mask": torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1], [1, 1, 1]]),
        "advantages": torch.tensor([1.0, -1, 0.5, -0.5], dtype=torch.float64),
    }
    loss = trainer._compute_loss(None, inputs)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    drawn = completion * inputs["tool_mask"]
    torch.testing.assert_close(gradient, -inputs["advantages"].unsqueeze(1) * drawn / 4 / 2)
