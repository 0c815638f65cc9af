"""Multi-sample estimators: the objective is a bound on log p(x), from K samples of an approximate posterior q.

With w = p(x, z) / q_φ(z), the bound L_K = E[log 1/K Σ_k w_k] grows with K to log p(x); L_1 is the ELBO. f returns the
logarithm of p_θ(x, z), and the estimator subtracts log q_φ(z) itself. The result is to be maximized: `-expect(...)`.
All samples share one logarithm. Therefore the part of each sample in the gradient has the weight w̃_k = w_k / Σ_j w_j,
and θ gets this from every estimator here. For φ the estimators differ:

- `importance_weighted.py` is the plain pathwise gradient. As K grows, it becomes small compared to its noise.
- `doubly_reparameterized.py` avoids this for continuous z: it turns the scores of q, which the plain gradient
  contains, into pathwise terms.
- `vimco.py` uses the score function, for any z. It compares the bound with what it would be without the sample.
- `reweighted_wake_sleep.py` has another objective for φ, KL(p(z | x) ‖ q_φ). Its gradient does not fade as K grows.

`bound.py` is the bound itself, from log-weights.
"""
