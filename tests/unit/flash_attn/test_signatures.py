"""What is called under flash-attn's names takes what flash-attn 2.8.3 takes, and ours by name."""

import inspect
import pickle
import pydoc
import re
import sys
import typing
from importlib import import_module
from inspect import Parameter
from pathlib import Path

import pytest

from ring_attn_bench import flash_attn, signatures
from ring_attn_bench.calls.attend import LocalOutput

TAIL = (
    "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
    "alibi_slopes=None, deterministic=False, return_attn_probs=False"
)
BELOW = "dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap"
ONES = "cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k"
FLASH_ATTN = {
    "flash_attn_func": f"q, k, v, {TAIL}",
    "flash_attn_kvpacked_func": f"q, kv, {TAIL}",
    "flash_attn_qkvpacked_func": f"qkv, {TAIL}",
    "flash_attn_varlen_func": f"q, k, v, {ONES}, {TAIL}, block_table=None",
    "flash_attn_varlen_kvpacked_func": f"q, kv, {ONES}, {TAIL}",
    "flash_attn_varlen_qkvpacked_func": f"qkv, cu_seqlens, max_seqlen, {TAIL}",
    "flash_attn_with_kvcache": (
        "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, "
        "cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None, "
        "softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
        "rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False"
    ),
    "_flash_attn_forward": f"q, k, v, {BELOW}, alibi_slopes, return_softmax",
    "_flash_attn_backward": (
        f"dout, q, k, v, out, softmax_lse, dq, dk, dv, {BELOW}, alibi_slopes, deterministic, "
        "rng_state=None"
    ),
    "_flash_attn_varlen_forward": (
        f"q, k, v, {ONES}, dropout_p, softmax_scale, causal, window_size_left=-1, "
        "window_size_right=-1, softcap=0.0, alibi_slopes=None, return_softmax=False, "
        "block_table=None, leftpad_k=None, seqused_k=None, zero_tensors=False"
    ),
    "_flash_attn_varlen_backward": (
        f"dout, q, k, v, out, softmax_lse, dq, dk, dv, {ONES}, {BELOW}, alibi_slopes, "
        "deterministic, rng_state=None, zero_tensors=False"
    ),
}
"""By name, the arguments of flash-attn 2.8.3 (flash_attn/flash_attn_interface.py)."""
SINKS = ["s_aux", "learnable_sink"]
OURS = {
    "flash_attn_func": ["backend", "sink", "dropout_seed", *SINKS],
    "flash_attn_varlen_func": [
        "backend", "sink", "dropout_seed", "check_cu_seqlens", *SINKS, "seqused_k",
    ],
    "flash_attn_kvpacked_func": ["backend", "sink", "dropout_seed"],
    "flash_attn_qkvpacked_func": ["backend", "sink", "dropout_seed"],
    "flash_attn_varlen_kvpacked_func": ["backend", "sink", "dropout_seed", "check_cu_seqlens"],
    "flash_attn_varlen_qkvpacked_func": ["backend", "sink", "dropout_seed", "check_cu_seqlens"],
    "flash_attn_with_kvcache": ["backend", "sink", *SINKS],
}  # fmt: skip
"""By name, what comes on top, by name alone; of the calls below autograd it is `backend`."""
PUBLIC = list(OURS)
ABOVE = [name for name in PUBLIC if name != "flash_attn_with_kvcache"]
"""Those that autograd goes through."""


def theirs(name):
    """(argument, default) in order."""
    function = eval(f"lambda {FLASH_ATTN[name]}: None")
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", FLASH_ATTN)
def test_names_order_and_defaults_are_flash_attns_and_ours_come_by_name_alone(name):
    function = getattr(flash_attn, name)
    parameters = inspect.signature(function).parameters.values()
    by_position = [p for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    by_name = [p for p in parameters if p.kind is Parameter.KEYWORD_ONLY]

    assert function.__name__ == name
    assert [(p.name, p.default) for p in by_position] == theirs(name)
    assert [p.name for p in by_name] == OURS.get(name, ["backend"])
    assert len(by_position) + len(by_name) == len(parameters)  # no *args, no **kwargs


@pytest.mark.parametrize("name", ABOVE)
def test_type_checkers_are_told_the_signatures_that_there_are(name):
    function = getattr(flash_attn, name)
    parameters = inspect.signature(function).parameters
    first, second, third = typing.get_overloads(function)
    told = inspect.signature(first).parameters
    named = set(typing.get_type_hints(arguments_of(second)))

    assert list(told) == list(parameters)
    for argument, parameter in parameters.items():
        assert (told[argument].kind, told[argument].default) == (parameter.kind, parameter.default)
        if argument != "return_attn_probs":
            assert told[argument].annotation == parameter.annotation
    given = set(inspect.signature(second).parameters) - {"arguments"}
    assert given | named == set(parameters) - {"block_table"}
    assert arguments_of(third) is arguments_of(second)


def arguments_of(overload):
    """What the overload takes by name: Unpack[...] of it."""
    text = inspect.signature(overload).parameters["arguments"].annotation
    return getattr(signatures, text.removeprefix("Unpack[").removesuffix("]"))


@pytest.mark.parametrize("name", ABOVE)
def test_they_are_functions_with_types_and_help_that_can_be_pickled(name):
    function = getattr(flash_attn, name)
    hints = typing.get_type_hints(function)

    assert inspect.isfunction(function)
    assert pickle.loads(pickle.dumps(function)) is function
    assert set(hints) == {*inspect.signature(function).parameters, "return"}
    assert hints["return"] == LocalOutput
    assert all(x in pydoc.render_doc(function) for x in inspect.signature(function).parameters)


def test_all_names_are_listed_and_the_public_ones_exported():
    assert set(dir(flash_attn)) == {*FLASH_ATTN, "__version__"}
    assert sorted(flash_attn.__all__) == sorted(PUBLIC)
    assert flash_attn.__version__.startswith("2.8")
    with pytest.raises(AttributeError, match="no attribute 'flash_attn_gone'"):
        getattr(flash_attn, "flash_attn_gone")  # noqa: B009 - what asks is an import


def test_the_page_has_every_function_once():
    page = (Path(__file__).parents[3] / "docs" / "flash-attn.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(flash_attn_\w+)` \|", page, re.MULTILINE)) == sorted(PUBLIC)


def test_who_imports_flash_attn_finds_ours_where_it_was_put_in_its_place(monkeypatch):
    for name in ("flash_attn", "flash_attn.flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, flash_attn)

    interface = import_module("flash_attn.flash_attn_interface")

    for name in FLASH_ATTN:
        assert getattr(interface, name) is getattr(flash_attn, name)
