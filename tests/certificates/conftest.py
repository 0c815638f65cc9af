"""`make fast` runs the first certificate of each estimator, and nothing else of this folder."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CERTIFICATES = ("test_unbiased", "test_value_and_theta_of_biased")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    certified = set()
    for item in items:
        if FOLDER not in item.path.parents:
            continue
        if isinstance(item, pytest.Function) and item.originalname in CERTIFICATES:
            estimator = type(item.callspec.params["variant"])
            if estimator not in certified:
                certified.add(estimator)
                continue
        item.add_marker(pytest.mark.slow)
