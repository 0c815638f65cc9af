"""Every public name has a docstring: its own, or for a method one that it inherits."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import sampleprop as sp

PUBLIC = [name for name in dir(sp) if not name.startswith("_") and callable(getattr(sp, name))]
MODULES = [module.name for module in pkgutil.walk_packages(sp.__path__, "sampleprop.")]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_documented(name: str) -> None:
    found: Any = getattr(sp, name)
    assert inspect.getdoc(found)
    if inspect.isclass(found) and found.__module__.startswith("sampleprop"):
        assert not [method for method in _methods(found) if not inspect.getdoc(getattr(found, method))]


@pytest.mark.parametrize("name", MODULES)
def test_module_is_documented_and_so_are_the_methods_of_its_classes(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    classes = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == name]
    missing = [
        f"{kind.__name__}.{method}"
        for kind in classes
        if not kind.__name__.startswith("_")
        for method in _methods(kind)
        if not inspect.getdoc(getattr(kind, method))
    ]
    assert not missing


def _methods(kind: type[Any]) -> list[str]:
    """The public methods and properties that the class itself defines."""
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | classmethod))
    ]
