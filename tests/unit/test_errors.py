"""Every error is itself again in another process, whatever its constructor takes."""

import copy
import pickle

import pytest
import torch

from ring_attn_bench import errors


def subclasses(kind):
    return [kind, *(x for sub in kind.__subclasses__() for x in subclasses(sub))]


OURS = subclasses(errors.RingAttnBenchError)
ARGUMENTS = {errors.UnknownName: ("backend", "atan", ["aten"])}
"""Of a constructor that takes other than a text, or a name and a reason."""


def made(kind):
    if kind in ARGUMENTS:
        return kind(*ARGUMENTS[kind])
    try:
        return kind("aten", "it cannot")
    except TypeError:
        return kind("a sentence")


class Outside(errors.Unsupported):
    """As a plug-in may have one."""

    def __init__(self, one, *, two):
        super().__init__(one, two)
        self.two = two


@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
@pytest.mark.parametrize(
    "error",
    [*map(made, OURS), Outside("aten", two="no")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_travels(error, again):
    found = again(error)

    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)


class Tall:
    """As a table may print itself."""

    def __repr__(self):
        return "one\n  two\r\nthree"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.nn.Parameter(torch.ones(())), "a Parameter of shape () and torch.float32"),
        (torch.nn.Parameter(torch.ones(2)), "a Parameter of shape (2,) and torch.float32"),
        (Tall(), "one two three"),
        ("a  b", "'a  b'"),
    ],
)
def test_a_value_is_shown_in_one_line(value, text):
    assert errors.shown(value) == text
