"""Coupled estimators: the gradient comes from differences of f between dependent samples.

Leave-one-out with two independent samples is ½ (f(x) - f(x')) (s - s') with the scores s and s': a variable gets a
gradient only where the samples differ in it, and often they do not. So let them be dependent: each follows p_φ, but
variable by variable they are drawn together, from common noise, such that they differ more often. With P the joint
probability of the two values of one variable,

    ∇_φ_v L = E[ ½ (f(x) - f(x')) r_v (x_v - x'_v) ],    r_v = p(x_v) p(x'_v) / P(x_v, x'_v),

for one-hot variables or bits with logits φ. It is unbiased: given x_v and x'_v, what is left of f(x) in the mean is a
function g(x_v) of its own value, since the variables are independent of each other; the weight r turns the law of the
pair back into that of two independent draws; and E[½ (g(x_v) - g(x'_v)) (x_v - x'_v)] of those is the covariance of
g(x_v) and x_v, which is the gradient by the logits. The condition is that P is positive for any two different values
that are possible: a pair that never occurs cannot be weighed, and the bias is silent. Nothing is learned, and f may
be a black box.

- `antithetic.py` draws pairs of bits from u and 1 - u. There r = max(p, 1 - p), which gives `disarm.py`; `arm.py`,
  its predecessor, has the noise u in the place of the weight.
- `copulas.py` draws any number of uniform numbers, every two of them negatively correlated. `arms.py` makes bits of
  them, `carms.py` one-hots, by breaking sticks. Both average over all pairs.

Three more compare f at a sample and at a point that is coupled to it:

- `measure_valued.py` writes the derivative of p by one parameter as c (p⁺ - p⁻) with two probability laws, and gives
  that parameter c (f(x⁺) - f(x⁻)). `weak_derivatives.py` knows c and the two laws for each parameter.
- `coupled_perturbation.py` keeps the noise behind x, and asks at which rate φ makes x jump to the outcome next to it:
  the gradient is this rate times the difference of f. One coordinate jumps, drawn by its rate.
- `go_gradient.py` lets each coordinate jump in turn, and so needs no draw. `jumps.py` knows the rates of both.
"""
