"""The thirteen cases that the hints of `mismatch` were tuned on: a tiny GPT-2 of `transformers`, drawn by `generate`.

16 prompts, 6 of them padded on the left, 16 draws each, fixed seeds.
"""

from __future__ import annotations

import copy
import re
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import GPT2Config, GPT2LMHeadModel

import sampleprop as sp

pytestmark = pytest.mark.slow

VOCABULARY, PROMPTS, DRAWS, PROMPT, ANSWER = 100, 16, 16, 6, 16


@cache
def model() -> Any:
    """Of random weights, large enough that its distributions are far from uniform."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.25,
        pad_token_id=0, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


class Drawn(NamedTuple):
    inputs: Tensor  # [draws, prompt + answer]
    attention: Tensor  # the same
    raw: Tensor  # [draws, answer, vocabulary], the sampler's logits
    used: Tensor  # the same, after temperature and truncation


@cache
@torch.no_grad()
def drawn(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Drawn:
    torch.manual_seed(1)
    exists = torch.ones(PROMPTS, PROMPT, dtype=torch.int64)
    exists[:6, :3] = 0
    prompts = torch.where(exists.bool(), torch.randint(1, VOCABULARY, exists.shape), 0)
    found = model().generate(
        prompts, attention_mask=exists, do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p,
        max_new_tokens=ANSWER, num_return_sequences=DRAWS, return_dict_in_generate=True, output_logits=True,
        output_scores=True, pad_token_id=0,
    )  # fmt: skip
    attention = torch.cat([exists.repeat_interleave(DRAWS, 0), torch.ones(PROMPTS * DRAWS, ANSWER).long()], 1)
    return Drawn(found.sequences, attention, torch.stack(found.logits, 1), torch.stack(found.scores, 1))


@torch.no_grad()
def learner(policy: Any, d: Drawn, *, positions: bool = True, shift: int = 0) -> Tensor:
    """The logits from which each token of the answer is said to be drawn, in float32."""
    where = {"position_ids": (d.attention.cumsum(1) - 1).clamp_min(0)} if positions else {}
    every = policy(d.inputs, attention_mask=d.attention, **where).logits
    first = PROMPT - 1 + shift
    return every[:, first : first + ANSWER].float()


def perturbed() -> Any:
    other = copy.deepcopy(model())
    torch.manual_seed(2)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return other


def case(name: str) -> tuple[Tensor, Drawn, Tensor]:
    """The learner's logits, the draws, and the logits whose log-probabilities were recorded."""
    if name in ("temperature 0.7", "temperature 1.3", "temperature 0.7, recorded raw"):
        d = drawn(temperature=float(re.findall(r"[\d.]+", name)[0]))
        return learner(model(), d), d, d.raw if "raw" in name else d.used
    if name in ("top-k", "top-k, masked", "top-k, recorded raw"):
        d = drawn(top_k=20)
        logits = learner(model(), d)
        logits = torch.where(d.used.isinf(), d.used, logits) if "masked" in name else logits
        return logits, d, d.raw if "raw" in name else d.used
    if name == "top-p":
        d = drawn(top_p=0.9)
        return learner(model(), d), d, d.used
    d = drawn()
    if name == "bfloat16":
        return learner(copy.deepcopy(model()).bfloat16(), d), d, d.used
    if name == "positions":
        return learner(model(), d, positions=False), d, d.used
    if name == "shifted":
        return learner(model(), d, shift=1), d, d.used
    if name == "dropout":
        torch.manual_seed(3)
        return learner(copy.deepcopy(model()).train(), d), d, d.used
    return learner(perturbed() if name == "older" else model(), d), d, d.used


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("right", ["the learner's, to float32"]),
        ("top-k, masked", ["the learner's, to float32"]),
        ("bfloat16", ["bfloat16 rounding"]),
        ("temperature 0.7", [r"about 0\.7\d times the learner's temperature", "less surprising"]),
        ("temperature 1.3", [r"about 1\.[23]\d times the learner's temperature", "more surprising"]),
        ("top-k", ["μ was truncated", "less surprising"]),
        ("top-p", ["μ was truncated", "less surprising"]),
        ("positions", [r"6\d% of the draws fit, the others do not", "more surprising"]),
        ("shifted", ["shifted by a step", "more surprising"]),
        ("dropout", ["no pattern: dropout", "more surprising"]),
        ("older", ["no pattern: dropout", "more surprising"]),
        ("temperature 0.7, recorded raw", ["the learner's, to float32", "less surprising"]),
        ("top-k, recorded raw", ["the learner's, to float32", "less surprising"]),
    ],
)
def test_what_the_hints_say(name: str, hints: list[str]) -> None:
    logits, d, recorded = case(name)
    tokens = d.inputs[:, PROMPT:]
    terms = sp.token_terms(logits, tokens)
    report = sp.mismatch(terms.log_prob, sp.token_log_prob(recorded, tokens), time_dim=1, entropy=terms.entropy)
    assert len(report.hints) == len(hints), report
    for hint, expected in zip(report.hints, hints, strict=True):
        assert re.search(expected, hint), report
