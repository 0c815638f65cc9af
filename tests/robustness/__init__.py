"""The robustness matrix: every estimator of the register under every condition, each cell with a verdict that is
established."""
