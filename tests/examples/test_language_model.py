"""The language model of the examples: masks, padding and recorded log-probabilities are those of the learner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))  # as Python does for a script

import language_model as example
import sampleprop as sp

pytestmark = pytest.mark.slow


def test_draws_are_what_their_log_probabilities_say() -> None:
    torch.manual_seed(0)
    report = example.report(example.model())
    assert report.rms < 1e-5
    assert report.hints == ("The recorded log-probabilities are the learner's, to float32.",)


def test_forgotten_positions_are_seen() -> None:
    torch.manual_seed(0)
    policy = example.model()
    with torch.no_grad():
        for layer in policy.model.layers:
            layer.self_attn.q_proj.weight.mul_(8)
            layer.self_attn.k_proj.weight.mul_(8)
    batches = [example.answer(policy) for _ in range(8)]
    terms = []
    for batch in batches:
        every = policy(batch.inputs, attention_mask=torch.ones_like(batch.inputs)).logits[:, 2:-1]
        terms.append(sp.token_log_prob(every.reshape(*batch.tokens.shape, -1), batch.tokens, mask=batch.mask))
    report = sp.mismatch(
        torch.cat(terms),
        torch.cat([b.recorded for b in batches]),
        time_dim=-1,
        mask=torch.cat([b.mask for b in batches]),
    )
    assert 0.05 < report.fitting < 0.95  # those prompts fit that had no padding
    assert "padded prompts" in report.hints[0]


@pytest.mark.parametrize("name", example.ESTIMATORS)
def test_each_way_takes_a_step(name: str, tmp_path: Path) -> None:
    history = example.run(name, 0, 1, 1, tmp_path / "checkpoint.pt", resume=False)
    assert [row["step"] for row in history] == [0, 1]
    assert history[0]["reward"] == pytest.approx(2, abs=0.2)
    assert example.run(name, 0, 1, 1, tmp_path / "checkpoint.pt", resume=True) == history
