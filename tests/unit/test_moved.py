"""Old names of modules say where they went."""

import importlib

import pytest

from ring_attn_bench._moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_says_the_new_one_which_is_there(old, new):
    with pytest.raises(ModuleNotFoundError, match=f"^{old} is {new} now"):
        importlib.import_module(old)

    assert importlib.import_module(new)


def test_a_name_that_never_was_is_told_of_as_ever():
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        importlib.import_module("ring_attn_bench.nowhere")
