"""How good are the gradients while a model trains?

This wing looks at a running training, where f and φ change with every step, so that only two estimates per probe can be
afforded and averages over probes have to do the rest. It imports `measuring` only.

- `monitor`: the class that users call in place of `sampleprop.expect`; it measures at some of the calls.
- `running`: averages over the last probes, and a test of whether numbers that come one at a time have mean zero.
"""
