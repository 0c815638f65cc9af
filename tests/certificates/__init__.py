"""What the tests of certificates and contracts share: the pairs of estimator and problem, and the kinds of variables."""
