"""Relaxed estimators: a continuous stand-in for a discrete sample, in place of it or beside it.

With z = φ + Gumbel noise, x = onehot(argmax z) is an exact sample of the classes with logits φ. With z = φ + logistic
noise, x = 1[z > 0] is one of a bit. Softened to s = softmax(z/τ) or sigmoid(z/τ), it is differentiable in φ, and
tends to x as the temperature τ falls. What is gained depends on what sees s:

- f itself. The gradient of f(s) is pathwise, of low variance, and unbiased, but for another problem: E[f(s)] is not
  E[f(x)]. The bias shrinks with τ while the variance grows without bound. `gumbel_softmax.py` is the first of these.
  Other noise or another squashing have `hard_concrete.py`, `gaussian_relaxed_bernoulli.py`, `invertible_gaussian.py`
  and `logistic_normal_softmax.py`; in the last one x follows p_φ only nearly, so some bias stays.
  `generalized_gumbel_softmax.py` is the same for counts.
- Only the backward pass. f sees x, and its derivative there is passed on as if it had been taken at s. The value is
  exact, and the gradient is biased for every τ. `straight_through_gumbel.py`; `gumbel_rao.py` averages over the noise
  given x; `gapped_straight_through.py` has no noise beside x; `decoupled_gumbel_softmax.py` has a second temperature,
  for x, whose distribution is p_φ only where that temperature is 1.
- Only a control variate. Let z̃ be drawn from the distribution of z given x, reparameterized too. For every function c,

      ∇_φ E[c(z)] = E[ ∇_φ c(z) ] = E[ ∇_φ c(z̃) + c(z̃) ∇_φ log p_φ(x) ],

  so the difference of the two has mean zero. Added to the score function, it cancels what f(x) and c(z) have in
  common, with no bias. `rebar.py` has c = η f(s); `relax.py` has a learned critic, with f or without it; `lax.py` is
  the same for continuous x, which is its own z.

Shared: `relaxation.py` (soften, harden, straight through), `conditional.py` (z̃ given x, and its derivative in closed
form), `critic.py` (learned functions).
"""
