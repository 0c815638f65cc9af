"""Baselines: what the score function subtracts from the cost before it multiplies the score.

The score has mean zero. Therefore a b that does not depend on the sample changes the variance but not the mean. The
variance is least at b = E[f ‖s‖²] / E‖s‖², where s is the score; this is near the mean cost. A b(x) that depends on the
sample is a control variate. Then its own gradient ∇_φ E[b(x)] is added back (as a gradient, not as a value).

`baseline.py` is the protocol. The baselines are ordered by what they are made of:

- a number: `constant.py`;
- the other samples of the same batch element: `leave_one_out.py` (their mean cost) and `optimal_coefficient.py` (their
  costs weighted by ‖s‖²);
- the past: `moving_average.py`, which moves by itself, and `learned.py`, a network that reads the context;
- one more evaluation of f: `self_critical.py`, at the most probable point;
- what you know of f: `known_mean.py`, a function b(x) with its mean.
"""
