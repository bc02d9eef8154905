"""What `import ring_attn_bench` offers is frozen: a change here is a change for users."""

import inspect
import pickle
import pydoc
import re
import typing
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ring_attn_bench
from ring_attn_bench import signatures, signatures_varlen
from ring_attn_bench.calls.attend import LocalOutput, Output

FLASH_ATTN_TAIL = [
    ("dropout_p", 0.0), ("softmax_scale", None), ("causal", False), ("window_size", (-1, -1)),
    ("alibi_slopes", None), ("deterministic", False), ("return_attn_probs", False),
    ("group", None),
]  # fmt: skip
RINGS = ("ring_flash_attn", "zigzag_ring_flash_attn", "stripe_flash_attn", "triton_ring_flash_attn")
LENGTHS = ["cu_seqlens", "max_seqlen"]
PREPARED = [
    "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "heads_k_stride",
    "local_k_slice",
]  # fmt: skip
VARLEN = {
    "ring_flash_attn": LENGTHS, "zigzag_ring_flash_attn": LENGTHS, "llama3_flash_attn": PREPARED,
}  # fmt: skip
PACKINGS = {"func": ["q", "k", "v"], "kvpacked_func": ["q", "kv"], "qkvpacked_func": ["qkv"]}


def test_the_public_names_are_these():
    functions = {f"{ring}_{packing}" for ring in RINGS for packing in PACKINGS}
    functions |= {f"{ring}_varlen_{packing}" for ring in VARLEN for packing in PACKINGS}
    others = {
        "ring_attn_func", "flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache",
        "ring_attn_with_kvcache", "llama3_flash_attn_prepare_cu_seqlens",
        "ring_attn_varlen_func", "documents", "document_position_ids",
        "shard_documents", "refill_documents",
        "RingAttention", "RingContext", "RingOptions", "shard", "unshard", "join_shards",
        "position_ids", "BackendUnavailable", "InvalidArgument", "NoProcessGroup",
        "RingAttnBenchError", "RingBroken", "TransportUnavailable", "UnknownName", "Unsupported",
    }  # fmt: skip

    assert set(ring_attn_bench.__all__) == functions | others
    assert set(dir(ring_attn_bench)) == functions | others


def test_the_page_on_the_library_has_every_public_name_once_with_a_meaning():
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| \S.* \|$", page, re.MULTILINE)

    assert sorted(told) == sorted(ring_attn_bench.__all__)


def test_the_ring_functions_have_the_signatures_that_people_know():
    for ring in RINGS:
        for packing, tensors in PACKINGS.items():
            function = getattr(ring_attn_bench, f"{ring}_{packing}")
            parameters = inspect.signature(function).parameters

            assert function.__name__ == f"{ring}_{packing}"
            assert list(parameters)[: len(tensors)] == tensors
            tail = list(parameters.values())[len(tensors) :]
            assert [(p.name, p.default) for p in tail[:8]] == FLASH_ATTN_TAIL
            assert [p.name for p in tail[8:]] == [
                "backend", "softcap", "dropout_seed", "sink", "context",
            ]  # fmt: skip
            assert all(p.kind is p.KEYWORD_ONLY for p in tail[8:])


def test_the_varlen_functions_have_the_signatures_that_people_know():
    for (ring, lengths), (packing, tensors) in product(VARLEN.items(), PACKINGS.items()):
        function = getattr(ring_attn_bench, f"{ring}_varlen_{packing}")
        parameters = inspect.signature(function).parameters

        assert list(parameters)[: len(tensors) + len(lengths)] == tensors + lengths
        tail = list(parameters.values())[len(tensors) + len(lengths) :]
        assert [(p.name, p.default) for p in tail[:8]] == FLASH_ATTN_TAIL
        assert [p.name for p in tail[8:]] == [
            "backend",
            "softcap",
            "dropout_seed",
            "sink",
            "context",
        ]
    prepare = inspect.signature(ring_attn_bench.llama3_flash_attn_prepare_cu_seqlens)
    assert list(prepare.parameters) == ["cu_seqlens", "causal", "rank", "world_size"]


def functions():
    return [
        pytest.param(getattr(ring_attn_bench, name), id=name)
        for name in ring_attn_bench.__all__
        if name.endswith("_func")
    ]


@pytest.mark.parametrize("function", functions())
def test_what_users_import_are_functions_with_arguments_types_and_help(function):
    name = function.__name__
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)

    assert inspect.isfunction(function)
    assert getattr(ring_attn_bench, name) is function
    assert pickle.loads(pickle.dumps(function)) is function
    assert set(hints) == {*parameters, "return"}
    assert hints["return"] == (Output if "group" in parameters else LocalOutput)
    assert not any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    text = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert all(parameter in text for parameter in parameters)


PROTOCOLS = {
    "ring_attn_func": "AnyPartitionFunction",
    "zigzag_ring_flash_attn_func": "RingFunction",
    "zigzag_ring_flash_attn_kvpacked_func": "KVPackedFunction",
    "zigzag_ring_flash_attn_qkvpacked_func": "QKVPackedFunction",
}
VARLEN_PROTOCOLS = {
    f"{ring}_flash_attn_varlen_{packing}func": f"{protocol}{kind}Function"
    for ring, protocol in (("ring", "Varlen"), ("zigzag_ring", "Varlen"), ("llama3", "Gathered"))
    for packing, kind in (("", ""), ("kvpacked_", "KVPacked"), ("qkvpacked_", "QKVPacked"))
}


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS.items())
def test_type_checkers_are_told_the_signatures_that_there_are(name, protocol):
    parameters = inspect.signature(getattr(ring_attn_bench, name)).parameters
    call = SimpleNamespace(__module__=signatures.__name__, __qualname__=f"{protocol}.__call__")
    told = dict(inspect.signature(typing.get_overloads(call)[0]).parameters)
    del told["self"]

    assert list(told) == list(parameters)
    for argument, parameter in parameters.items():
        assert told[argument].kind is parameter.kind
        assert told[argument].default == parameter.default
        if argument != "return_attn_probs":
            assert told[argument].annotation == parameter.annotation


@pytest.mark.parametrize(("name", "protocol"), VARLEN_PROTOCOLS.items())
def test_type_checkers_are_told_the_signatures_of_varlen_functions(name, protocol):
    parameters = inspect.signature(getattr(ring_attn_bench, name)).parameters
    call = SimpleNamespace(
        __module__=signatures_varlen.__name__, __qualname__=f"{protocol}.__call__"
    )
    first, *_ = typing.get_overloads(call)
    told, hints = dict(inspect.signature(first).parameters), typing.get_type_hints(first)
    del told["self"]

    assert list(told) == list(parameters)
    for argument, parameter in parameters.items():
        assert told[argument].kind is parameter.kind
        assert told[argument].default == parameter.default
        if argument != "return_attn_probs":
            assert hints[argument] == parameter.annotation


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("flash_attn_func", "DenseArguments"), ("flash_attn_varlen_func", "VarlenArguments")],
)
def test_arguments_by_name_are_those_of_the_functions_of_one_device(name, arguments):
    parameters = inspect.signature(getattr(ring_attn_bench, name)).parameters
    named = set(typing.get_type_hints(getattr(signatures, arguments)))
    tensors = {"q", "k", "v", "return_attn_probs"}
    tensors |= {"cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"}
    assert set(parameters) - tensors - {"block_table"} == named


def test_documents_on_a_ring_are_called_as_ring_flash_attentions_are_and_more():
    parameters = inspect.signature(ring_attn_bench.ring_attn_varlen_func).parameters
    assert list(parameters)[:5] == ["q", "k", "v", "cu_seqlens", "max_seqlen"]
    tail = list(parameters.values())[5:]
    assert [(p.name, p.default) for p in tail[:8]] == FLASH_ATTN_TAIL
    assert [p.name for p in tail[8:]] == [
        "partition", "queries", "backend", "softcap", "dropout_seed", "sink", "context",
    ]  # fmt: skip
    assert all(p.kind is p.KEYWORD_ONLY for p in tail[8:])
    named = set(typing.get_type_hints(signatures.RingDocumentsArguments))
    assert named == set(parameters) - {*list(parameters)[:5], "return_attn_probs"}


def test_a_misspelt_argument_is_a_type_error_that_names_it():
    x = torch.zeros(1, 4, 2, 8)
    with pytest.raises(TypeError, match=r"zigzag_ring_flash_attn_func\(\).*'causl'"):
        ring_attn_bench.zigzag_ring_flash_attn_func(x, x, x, causl=True)
    with pytest.raises(TypeError, match=r"zigzag_ring_flash_attn_func\(\).*'partition'"):
        ring_attn_bench.zigzag_ring_flash_attn_func(x, x, x, partition="striped")
    with pytest.raises(TypeError, match=r"kvpacked_func.*'kv'"):
        ring_attn_bench.zigzag_ring_flash_attn_kvpacked_func(x)
