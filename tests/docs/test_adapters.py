"""The adapters on the page "Language models" for trainers of other people.

Two tests run against the real packages and are skipped where these are not installed; they passed with verl 0.9.1 and
TRL 1.16.0. Nothing of vLLM or a GPU is needed:

    pip install trl ray tensordict codetiming torchdata orjson cachetools fastapi uvicorn pylatexenc hydra-core
    pip install --no-deps verl

The other two use a stand-in of the published interface: for verl `register_adv_est` and the call of an advantage
estimator, for TRL the names that `GRPOTrainer._compute_loss` has at hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch

import sampleprop as sp

PAGE = Path(__file__).parents[2] / "docs" / "language_models.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

REWARDS = torch.tensor([[0.0, 1, 0], [0, 0, 3], [2, 0, 0], [0, 5, 0]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 0, 0], [1, 1, 0]])  # the last reward of draw 1 follows a tool
INDEX = numpy.array(["b", "a", "b", "a"], dtype=object)
ADVANTAGE = [[-1, 1, 0], [-2, 0, 3], [1, 0, 0], [2, 2, 0]]


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


def test_the_advantage_estimator_for_verl(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, Any] = {}

    def register_adv_est(name: str) -> Any:
        return lambda function: registered.setdefault(name, function)

    in_place_of(monkeypatch, "verl.trainer.ppo.core_algos", register_adv_est=register_adv_est)
    run("verl")
    function = registered["sampleprop"]
    advantage, returns = function(token_level_rewards=REWARDS, response_mask=MASK, index=INDEX, config=None)
    assert advantage.tolist() == ADVANTAGE
    assert returns[1].tolist() == [3, 3, 3]
    audited = sp.audit(
        lambda token_level_rewards, response_mask, groups: function(
            token_level_rewards, response_mask.double(), groups.numpy()
        ),
        group_sizes=[2],
        worlds=sp.diagnostics.TOOLS,
    )
    assert audited.worst < 1e-9


@pytest.mark.filterwarnings("ignore")
def test_verl_itself_takes_the_advantage_estimator() -> None:
    """By its name in the settings, through the function that verl's trainer calls."""
    trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer", reason="needs verl", exc_type=ImportError)
    from verl import DataProto
    from verl.trainer.config.algorithm import AlgoConfig

    run("verl")
    data = DataProto.from_dict(
        tensors={"token_level_rewards": REWARDS, "response_mask": MASK}, non_tensors={"uid": INDEX}
    )
    found = trainer.compute_advantage(data, "sampleprop", config=AlgoConfig(adv_estimator="sampleprop"))
    assert found.batch["advantages"].tolist() == ADVANTAGE


def test_the_loss_for_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of(monkeypatch, "trl", GRPOTrainer=object)
    trainer = run("trl")["ScoreTrainer"]()
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trl_itself_trains_by_the_loss(tmp_path: Path) -> None:
    """Two steps of a tiny model; each gradient is that of TRL's own "dr_grpo" but for its constant length."""
    trl = pytest.importorskip("trl", reason="needs TRL")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<end>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    longest, relative = 4, []

    class Both(run("trl")["ScoreTrainer"]):  # type: ignore[misc]
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            losses = super()._compute_loss(model, inputs), longest * trl.GRPOTrainer._compute_loss(self, model, inputs)
            ours, theirs = (
                torch.cat([x.flatten() for x in torch.autograd.grad(y, list(model.parameters()), retain_graph=True)])
                for y in losses
            )
            assert theirs.norm() > 0
            relative.append(float((ours - theirs).norm() / theirs.norm()))
            return losses[0]

    torch.manual_seed(0)
    trainer = Both(
        model=LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, eos_token_id=1, bos_token_id=None,
            )
        ),
        reward_funcs=lambda completions, **_: [float(answer.count("a")) for answer in completions],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=16, num_generations=4,
            gradient_accumulation_steps=2, max_completion_length=longest, scale_rewards="none", loss_type="dr_grpo",
            beta=0.0, report_to=[], use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a b", "c", "d e f", "g"] * 8}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>"),
    )  # fmt: skip
    trainer.train()
    assert len(relative) == 4
    assert max(relative) < 1e-5
