"""Gradients for code that already holds log-probabilities: reinforcement learning and language models.

Such code has drawn its actions or tokens elsewhere, in a simulator or an inference server, and has no distribution
object to give to `expect`. It has log π(x) of what was drawn, attached to the policy, and what that cost. From these,

    ∇ E[f(x)] = E[ (f(x) - b) ∇log π(x) + ∂f(x) ],      log π(x) = Σ_t log π(x_t | x_<t),

for every b that does not depend on x. A cost that arises at step t does not depend on later draws, so a step is charged
with the costs from it on only. `score_function_loss.py` is that gradient; `leave_one_out.py` and `reward_to_go.py` are
its parts, for those who put it together themselves. Draws from another policy μ are weighted by π(x) / μ(x):
`importance_ratio.py`. `token_log_prob.py` and `sequence_log_prob.py` are where log π comes from when the vocabulary is
large.

What practice adds for its smaller variance is biased and is named so where it stands: clipped or self-normalized
ratios, the ratio of one step in place of the whole draw's, division by a draw's length, by a random number of tokens,
or by the standard deviation of the group. The tests measure each bias by enumeration.

`arguments.py` is what all of them ask of their arguments. Nothing is broadcast.
"""

from sampleprop.functional.importance_ratio import importance_ratio as importance_ratio
from sampleprop.functional.leave_one_out import leave_one_out as leave_one_out
from sampleprop.functional.reward_to_go import reward_to_go as reward_to_go
from sampleprop.functional.score_function_loss import score_function_loss as score_function_loss
from sampleprop.functional.sequence_log_prob import sequence_log_prob as sequence_log_prob
from sampleprop.functional.token_log_prob import token_log_prob as token_log_prob
