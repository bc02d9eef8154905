"""The judge of flash-attn's grid: what is right passes, and what is nearly right does not."""

from dataclasses import replace

import pytest

from ring_attn_bench.conformance.faults import faults
from tests.flash_attn_grid import (
    HEAD_DIMS,
    KEY_HEADS,
    LENGTHS,
    Question,
    computed,
    documents,
    draw,
    questions,
    sampled,
    truth,
    wrong,
)

SHORT = ((33, 50),) * 2
EVERYTHING = {"causal": True, "local": True, "softcap": True, "alibi": True, "dropout": True}


@pytest.mark.parametrize("packed", [False, True], ids=["batch", "documents"])
@pytest.mark.parametrize("lengths", [SHORT, ((50, 33),) * 2], ids=str)
@pytest.mark.parametrize("on", [(), *EVERYTHING.items(), tuple(EVERYTHING.items())], ids=str)
def test_the_specification_is_right(on, lengths, packed):
    on = dict((on,) if on and isinstance(on[0], str) else on)
    if packed and on.pop("dropout", False) and not on:
        pytest.skip("called for each document, it drops by other seeds than packed kernels do")
    found = [
        Question(40, kind, lengths, dtype=dtype, packed=packed, **on)
        for kind, dtype in zip(KEY_HEADS, ("bfloat16", "float16", "float32"), strict=True)
    ]
    found = [documents(x) for x in found] if packed else found
    assert wrong(found, "cpu", "reference") == []


@pytest.mark.parametrize("packed", [False, True], ids=["batch", "documents"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_an_answer_to_another_question_is_wrong(name, packed):
    """A feature that a backend ignores is seen."""
    question = Question(40, "gqa", SHORT, packed=packed, **EVERYTHING)
    question = documents(question) if packed else question
    data, ignorant = draw(question, "cpu"), replace(question, **{name: False})

    found = faults(truth(question, data), computed(ignorant, data, "reference"))

    assert {fault.split()[0] for fault in found} >= {"out", "dq", "dk"}


def test_slopes_of_another_batch_entry_and_one_wrong_value_are_seen():
    question = Question(40, "mha", SHORT, alibi=True)
    data = draw(question, "cpu")
    swapped = replace(data, slopes=data.slopes.flip(0))
    right, results = truth(question, data), computed(question, data, "reference")
    spoilt = results | {"dk": results["dk"].clone()}
    spoilt["dk"][1, 7, 2, 39] += 0.5

    assert faults(right, computed(question, swapped, "reference"))
    assert [fault.split()[0] for fault in faults(right, spoilt)] == ["dk"]


def test_a_refusal_is_a_fault_of_its_question_and_the_others_are_asked():
    ok = Question(40, "mha", SHORT)
    found = wrong([replace(ok, alibi=True), ok], "cpu", "aten")
    assert len(found) == 1
    assert "alibi=True" in found[0]
    assert "Unsupported" in found[0]


def test_the_grid_is_a_product_and_a_sample_of_it_is_always_the_same():
    every = questions(head_dim=64)
    assert len(set(every)) == len(KEY_HEADS) * len(LENGTHS) * 4
    assert sampled(every, 1) != every
    assert sorted(map(str, sampled(every, 1))) == sorted(map(str, every))
    assert sampled(every, 6) == sampled(questions(head_dim=64), 6)
    assert len(sampled(every, 6)) == 20
    shown = [x for dim in HEAD_DIMS for x in sampled(questions(head_dim=dim), 6)]
    assert {x.lengths[0] for x in shown} == set(LENGTHS)
    assert len({(x.lengths, x.kind) for x in shown}) == len(LENGTHS) * len(KEY_HEADS)
