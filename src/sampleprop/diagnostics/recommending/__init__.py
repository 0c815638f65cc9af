"""Which estimator should I take, with how many samples?

This wing lets estimators compete in rounds of `compare`, has the winner checked, and gives the reasons. It imports
`measuring`, `checking` and `comparing`.

- `recommend`: the function that users call.
- `candidates`: the estimators that take part, and how each is written as code.
- `further`: the configurations that take part besides the default one of each estimator.
- `race`: the rounds: who is beaten drops out, until the best is known.
- `recommendation`: the result, with its reasons in sentences.
"""
