"""Gradients for code that already holds log-probabilities: reinforcement learning and language models.

Such code has drawn its actions or tokens elsewhere, in a simulator or an inference server, and has no distribution
object to give to `expect`. It has log π(x) of what was drawn, attached to the policy, and what that cost. From these,

    ∇ E[f(x)] = E[ (f(x) - b) ∇log π(x) + ∂f(x) ],      log π(x) = Σ_t log π(x_t | x_<t),

for every b that does not depend on x. A cost that arises at step t does not depend on later draws, so a step is charged
with the costs from it on only. Two masks say what exists and what the policy drew of it: a reward may arrive on an
observation.

- `score_function_loss`: that gradient. `aggregate` and `count`: one number from a loss at each step, and what divides
  it, such that micro-batches and ranks add up to the whole.
- `leave_one_out`, `shrinkage`: b from the other draws, whose groups may be ragged (`groups`). `whiten`: what practice
  does instead.
- `reward_to_go`, `generalized_advantage`: costs from a step on; with a critic.
- `importance_ratio`: π(x) / μ(x) for draws from another policy μ. `mismatch`: whether μ is what it is said to be.
- `kl_surrogate`: a KL divergence from log-probabilities, with the gradient that belongs to it.
- `token_log_prob`, `token_terms`, `sequence_log_prob`, `in_chunks`: where log π comes from when the vocabulary is
  large, with entropy and divergence.

What practice adds for its smaller variance is biased and is named so where it stands: clipped or self-normalized
ratios, the ratio of one step in place of the whole draw's, division by a draw's length, by a random number of tokens,
or by the standard deviation of the group. `sampleprop.audit` measures each bias by enumeration.

`arguments` is what all of them ask of their arguments. Nothing is broadcast, and every dimension with a meaning is
named by the caller.
"""

from sampleprop.functional.aggregate import aggregate as aggregate
from sampleprop.functional.aggregate import count as count
from sampleprop.functional.generalized_advantage import generalized_advantage as generalized_advantage
from sampleprop.functional.importance_ratio import importance_ratio as importance_ratio
from sampleprop.functional.in_chunks import in_chunks as in_chunks
from sampleprop.functional.kl_surrogate import kl_surrogate as kl_surrogate
from sampleprop.functional.leave_one_out import leave_one_out as leave_one_out
from sampleprop.functional.mismatch import mismatch as mismatch
from sampleprop.functional.reward_to_go import reward_to_go as reward_to_go
from sampleprop.functional.score_function_loss import score_function_loss as score_function_loss
from sampleprop.functional.sequence_log_prob import sequence_log_prob as sequence_log_prob
from sampleprop.functional.shrinkage import shrinkage as shrinkage
from sampleprop.functional.token_log_prob import token_log_prob as token_log_prob
from sampleprop.functional.token_terms import token_terms as token_terms
from sampleprop.functional.whiten import whiten as whiten
