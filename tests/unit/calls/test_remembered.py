"""What a call's key tells apart, and how long calls are kept."""

import pytest
import torch

from ring_attn_bench.calls import remembered
from ring_attn_bench.calls.remembered import Remembered, key_of

X = torch.zeros(1, 4, 2, 8)


@pytest.mark.parametrize(
    "other",
    [
        (X.bool(),),
        (X.requires_grad_(False).double(),),
        (X.clone().requires_grad_(),),
        (X.transpose(1, 2),),
        (X.transpose(1, 2).contiguous().transpose(1, 2),),
        (X[:, :3],),
        (None,),
        (X, X),
        (X.to("meta"),),
    ],
    ids=["dtype", "precision", "gradient", "shape", "strides", "length", "none", "two", "device"],
)
def test_a_key_tells_apart_what_checks_look_at(other):
    assert key_of((X,), 1) == key_of((X.clone() + 1,), 1)
    assert key_of(other, 1) != key_of((X,), 1)


def test_a_key_tells_apart_numbers_their_places_and_whether_gradients_are_wanted():
    plain = key_of((X,), 1, 2)
    with torch.no_grad():
        assert key_of((X,), 1, 2) != plain
    assert key_of((X,), 2, 1) != plain
    assert key_of((None, X), 1, 2) != key_of((X, None), 1, 2)


@pytest.mark.parametrize("wrong", [((3,), 1), ((X,), [1])], ids=["no tensor", "a list"])
def test_what_cannot_be_a_key_is_never_found(wrong):
    calls = Remembered()
    key = key_of(*wrong)
    calls.keep(key, "call")

    assert key is None
    assert calls.find(key) is None


def test_calls_are_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(remembered, "KEPT", 2)
    calls = Remembered()
    for key in "abc":
        calls.keep(key, key.upper())

    assert [calls.find(key) for key in "abc"] == [None, None, "C"]
