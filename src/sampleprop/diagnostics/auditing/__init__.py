"""What is somebody's advantage or loss the gradient of? Answered by enumeration, on policies whose draws can be listed.

- `worlds`: the small policies.
- `batch`: what an audited function may ask for, by its usual names, and how what it returns becomes weights of scores.
- `moments`: the mean and the mean square of the estimate over all groups of draws.
- `objectives`: the gradients that the mean is compared with.
- `audit`: the report.
"""
