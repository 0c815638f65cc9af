"""A small Llama that learns which of two answers pays more, and a usual advantage that learns the other one.

A prompt is answered by up to three tokens. The first one chooses an arm: A (an even token) pays 10 with probability
0.3, 3 in the mean; B (an odd one) always pays 1. There are four answers to each prompt. A step of Adam takes the
gradient of the mean reward, less a little KL to the model that it began with. The ways to do it differ in what an
answer's reward is compared with:

- leave-one-out: the mean of the other answers. Unbiased.
- shrinkage: the same, drawn towards the other prompts. Unbiased.
- tokens: leave-one-out, divided by the tokens of the batch. Biased, by little.
- std: the mean of all answers, divided by their standard deviation (GRPO). Biased: the mean update points to B at every
  probability of A.

It shows what a trainer has to do: left padding and its positions, masks from the end token, recorded log-probabilities
that are compared with the learner's, and the exact KL of each token as a cost. The model is made here; nothing is
downloaded. Run:

    pip install 'sampleprop[examples]'
    python examples/language_model.py                                    # one seed each, some minutes
    python examples/language_model.py --estimator leave-one-out std --seeds 3
    python examples/language_model.py --fast                             # seconds: no result worth having
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import sampleprop as sp
import training

VOCABULARY, PAD, END = 16, 0, 1
PROMPTS, ANSWERS, LONGEST = 8, 4, 3  # prompts of one step, answers to each, tokens of an answer
PAYS, CHANCE, SURE = 10.0, 0.3, 1.0  # of arm A, and what arm B pays
RATE, PENALTY = 5e-3, 0.01  # of Adam, and of the KL
STEPS, EVERY = 150, 10


class Batch(NamedTuple):
    inputs: Tensor  # [draws, prompt + answer], left-padded
    attention: Tensor  # the same, False for padding on either side
    tokens: Tensor  # [prompts, answers, time]
    mask: Tensor  # [prompts, answers, time], False after the end token
    recorded: Tensor  # [prompts, answers, time], the sampler's log-probabilities
    reward: Tensor  # [prompts, answers]


def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=32, pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()  # dropout off, as it has to be


def ask(count: int) -> tuple[Tensor, Tensor]:
    """Prompts of one to three tokens, padded on the left, and where they exist: [count, 3]."""
    lengths = torch.randint(1, 4, (count, 1))
    exists = torch.arange(3) >= 3 - lengths
    return torch.where(exists, torch.randint(2, VOCABULARY, (count, 3)), PAD), exists


@torch.no_grad()
def answer(policy: LlamaForCausalLM) -> Batch:
    prompts, exists = ask(PROMPTS)
    found = policy.generate(
        prompts, attention_mask=exists.long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=LONGEST, num_return_sequences=ANSWERS, return_dict_in_generate=True, output_logits=True,
        pad_token_id=PAD, eos_token_id=END,
    )  # fmt: skip
    tokens = found.sequences[:, 3:]
    ended = (tokens == END).cumsum(1) - (tokens == END).long()  # ends before each token
    mask = ended == 0
    recorded = sp.token_log_prob(torch.stack(found.logits, 1).float(), tokens, mask=mask)
    first = tokens[:, 0]
    lucky = torch.rand(len(first)) < CHANCE
    reward = torch.where(first % 2 == 0, PAYS * lucky.float(), torch.full((len(first),), SURE))
    attention = torch.cat([exists.repeat_interleave(ANSWERS, 0), mask], 1)
    shape = (PROMPTS, ANSWERS, -1)
    return Batch(
        found.sequences, attention, tokens.view(shape), mask.view(shape), recorded.view(shape), reward.view(shape[:2])
    )


def logits(policy: LlamaForCausalLM, inputs: Tensor, attention: Tensor) -> Tensor:
    """Those from which each token of the answer was drawn, [draws, time, vocabulary]: one step before it."""
    positions = (attention.long().cumsum(1) - 1).clamp_min(0)  # padding on the left does not count
    every = policy(inputs, attention_mask=attention.long(), position_ids=positions).logits
    kept: Tensor = every[:, 2:-1]
    return kept


# --- the ways to compare an answer's reward: costs are rewards with a minus sign --------------------------------------


def leave_one_out(batch: Batch, terms: Any) -> Tensor:
    return step(batch, terms, sp.leave_one_out(-batch.reward, dim=1))


def shrinkage(batch: Batch, terms: Any) -> Tensor:
    return step(batch, terms, sp.shrinkage(-batch.reward, dim=1))


def tokens(batch: Batch, terms: Any) -> Tensor:
    return step(batch, terms, sp.leave_one_out(-batch.reward, dim=1), normalize="tokens")


def std(batch: Batch, terms: Any) -> Tensor:
    reward = batch.reward
    weight = (reward.mean(1, keepdim=True) - reward) / (reward.std(1, keepdim=True) + 1e-4)
    return sp.score_function_loss(terms.log_prob, weight, time_dim=-1, mask=batch.mask, as_weights=True) + sp.aggregate(
        PENALTY * terms.kl, batch.mask, time_dim=-1
    )


def step(batch: Batch, terms: Any, baseline: Tensor, **options: Any) -> Tensor:
    """The reward as a cost at the last token, and the divergence as one at each token, attached."""
    last = torch.arange(batch.mask.shape[-1]) == batch.mask.sum(-1, keepdim=True) - 1
    cost = PENALTY * terms.kl - torch.where(last, batch.reward.unsqueeze(-1), 0)
    return sp.score_function_loss(terms.log_prob, cost, baseline=baseline, time_dim=-1, mask=batch.mask, **options)


Loss = Callable[[Batch, Any], Tensor]
ESTIMATORS: dict[str, Loss] = {"leave-one-out": leave_one_out, "shrinkage": shrinkage, "tokens": tokens, "std": std}
BIASED = ("tokens", "std")


@torch.no_grad()
def exact_reward(policy: LlamaForCausalLM) -> float:
    """The mean reward over fresh prompts, from the probabilities of the first token: no answer is sampled."""
    prompts, exists = ask(64)
    first = policy(
        prompts, attention_mask=exists.long(), position_ids=(exists.long().cumsum(1) - 1).clamp_min(0)
    ).logits[:, -1].softmax(-1)  # fmt: skip
    return float((first[:, 0::2].sum(1) * PAYS * CHANCE + first[:, 1::2].sum(1) * SURE).mean())


def run(name: str, seed: int, steps: int, every: int, path: Path, resume: bool) -> training.History:
    """Train one model; the history has the exact mean reward."""
    torch.manual_seed(seed)
    policy = model()
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)

    def train_step() -> None:
        batch = answer(policy)
        other = logits(reference, batch.inputs, batch.attention).view(*batch.tokens.shape, -1)
        own = logits(policy, batch.inputs, batch.attention).view(*batch.tokens.shape, -1)
        terms = sp.token_terms(own, batch.tokens, reference=other, mask=batch.mask)
        optimizer.zero_grad()
        ESTIMATORS[name](batch, terms).backward()
        optimizer.step()

    return training.train(
        f"{name}, seed {seed}", train_step, lambda: {"reward": exact_reward(policy)}, steps, every=every,
        state={"policy": policy, "optimizer": optimizer}, path=path,
        settings={"name": name, "seed": seed}, resume=resume,
    )  # fmt: skip


def report(policy: LlamaForCausalLM) -> Any:
    """Whether the answers are what their recorded log-probabilities say."""
    batches = [answer(policy) for _ in range(8)]
    terms = [
        sp.token_terms(logits(policy, b.inputs, b.attention).view(*b.tokens.shape, -1), b.tokens, mask=b.mask)
        for b in batches
        if b.tokens.shape[-1] == LONGEST
    ]
    kept = [b for b in batches if b.tokens.shape[-1] == LONGEST]
    return sp.mismatch(
        torch.cat([t.log_prob for t in terms]), torch.cat([b.recorded for b in kept]), time_dim=-1,
        mask=torch.cat([b.mask for b in kept]), entropy=torch.cat([t.entropy for t in terms]),
    )  # fmt: skip


def main() -> None:
    parser = training.parser("language_model", __doc__, ESTIMATORS, images=False)
    arguments = parser.parse_args()
    steps = arguments.steps or (6 if arguments.fast else STEPS)
    torch.manual_seed(arguments.seed)
    print(f"Are the draws what their log-probabilities say?\n{report(model())}\n")

    def one(name: str, seed: int) -> training.History:
        return run(name, seed, steps, EVERY, arguments.out / f"{name}-{seed}.pt", arguments.resume)

    histories = training.each(arguments, training.chosen(arguments, ESTIMATORS), one)
    rows = [
        [
            name + (" (biased)" if name in BIASED else ""),
            training.mean_and_error([run[0]["reward"] for run in runs]),
            training.mean_and_error([run[-1]["reward"] for run in runs]),
            ", ".join(f"{run[-1]['reward']:.2f}" for run in runs),
        ]
        for name, runs in histories.items()
    ]
    print(training.table(("compared with", "mean reward at the start", "at the end", "of each seed"), rows))
    picture = arguments.out / "language_model.png"
    training.curves(picture, histories, {"reward": "exact mean reward, of 3"}, BIASED)
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
