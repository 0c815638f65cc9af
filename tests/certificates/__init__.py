"""What the tests of certificates and contracts share: pairs of estimator and problem, and kinds of variables."""
