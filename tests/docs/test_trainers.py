"""The two trainers that the documentation shows whole: they are short, and they learn.

The seeds are fixed by the pages. A reward that is measured on 32 answers, and lengths of 20 episodes, are far from what
is asked for here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
LONGEST = 60  # lines


def trained(page: str, word: str) -> list[float]:
    """What the trainer of a page that uses `word` measured."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if word in block)
    assert len(block.splitlines()) < LONGEST
    scope: dict[str, Any] = {}
    exec(compile(block, page, "exec"), scope)
    history: list[float] = scope["history"]
    return history


def test_a_language_model_learns() -> None:
    pytest.importorskip("transformers")
    history = trained("language_models.md", "LlamaForCausalLM")
    assert sum(history[:5]) / 5 < 0.7
    assert sum(history[-5:]) / 5 > 0.9


def test_an_actor_and_its_critic_learn() -> None:
    pytest.importorskip("gymnasium")
    history = trained("reinforcement_learning.md", "gymnasium")
    assert sum(history[:20]) / 20 < 40
    assert sum(history[-20:]) / 20 > 100
