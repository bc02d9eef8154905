"""Old names of modules say where they went."""

import importlib

import pytest

from ring_attn_bench._moved import MOVED


def there(name):
    """A module, or what a module has."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_says_the_new_one_which_is_there(old, new):
    package, _, name = old.rpartition(".")

    with pytest.raises(ModuleNotFoundError, match=f"^{old} is {new} now"):
        importlib.import_module(old)
    with pytest.raises(ModuleNotFoundError, match=f"^{old} is {new} now"):
        exec(f"from {package} import {name}")

    assert there(new)


def test_a_name_that_never_was_is_told_of_as_ever():
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("ring_attn_bench.nowhere")
