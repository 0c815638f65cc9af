"""What the tests of the command share: runs without pictures, which take longer than the numbers."""

from collections.abc import Iterator

import pytest

from sampleprop.lab.show import output


def _patched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "write", lambda problems, out: [])
        yield


_one_test = pytest.fixture(_patched, name="_without_pictures")
_module = pytest.fixture(_patched, name="_module_without_pictures", scope="module")
