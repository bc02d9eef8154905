"""ring-flash-attention's varlen functions, under its names and with its arguments.

Three ways to deal packed documents to ranks, each its own partition of `ring_documents`:

    ring_flash_attn_varlen_func         each document in W parts, one for each rank; cu_seqlens and
                                        max_seqlen are of a rank's own tokens, alike on every rank
    zigzag_ring_flash_attn_varlen_func  each in 2 W parts, of which a rank has one of the head and
                                        one of the tail, behind one another; cu_seqlens as above
    llama3_flash_attn_varlen_func       the packed sequence in W parts, whatever the documents are;
                                        with what `llama3_flash_attn_prepare_cu_seqlens` returned

with forms that take kv (tokens, 2, heads, dim) or qkv (tokens, 3, heads, dim). q (tokens, heads_q,
head_dim), k and v alike. What follows them is what `ring_attn_varlen_func` takes, without a
partition; masks of every kind, forward and backward, and what is raised are its own. A cu_seqlens
on a GPU is read at each call, for which the host waits; `ring_attn_varlen_func` with a value that
`documents` made does not. lse is (heads_q, tokens).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ring_attn_bench.calls.attend import Output
from ring_attn_bench.calls.dense import check_dense
from ring_attn_bench.calls.plain import flag, integer
from ring_attn_bench.calls.unpack import unpacked
from ring_attn_bench.document_sharding import as_graph_input, starts_of
from ring_attn_bench.errors import InvalidArgument, shown
from ring_attn_bench.plan.documents import DealtDocuments, check_starts
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.ring.packed import EachDealt, Prepared, check_longest, longest_of
from ring_attn_bench.ring_attention import ring_attention
from ring_attn_bench.ring_documents import as_operator, attended_packed

if TYPE_CHECKING:
    from ring_attn_bench.signatures_varlen import (
        GatheredFunction,
        GatheredKVPackedFunction,
        GatheredQKVPackedFunction,
        VarlenFunction,
        VarlenKVPackedFunction,
        VarlenQKVPackedFunction,
    )

ToldOf = Callable[[dict[str, Any]], EachDealt | Prepared]
"""What the documents are, from the arguments by name; raises InvalidArgument."""


@dataclass(frozen=True)
class _Prepared:
    """What prepared tensors are of: they are one rank's, and other ranks' keys go by the whole."""

    documents: DealtDocuments
    rank: int
    causal: bool
    longest: tuple[int, int]
    """Of its queries and of their keys."""
    keys: slice
    """Of the packed sequence."""


_ATTRIBUTE = "prepared_documents"
"""Of the tensors that `llama3_flash_attn_prepare_cu_seqlens` returns: a `_Prepared`."""


def llama3_flash_attn_prepare_cu_seqlens(
    cu_seqlens: Tensor, causal: bool, rank: int, world_size: int
) -> tuple[Tensor, Tensor, int, int, slice]:
    """cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k and local_k_slice of a rank.

    cu_seqlens: of the whole packed sequence, int32 (documents + 1,). What is returned says which
    documents the rank's tokens are of, int32 on the same device, and which of the packed tokens
    their keys are. Made once for a batch: a GPU's cu_seqlens is read, which waits for the GPU.

    Raises InvalidArgument for starts that do not rise from 0, or a sequence that W does not divide.
    """
    check_dense("cu_seqlens", cu_seqlens, "a tensor of shape (documents + 1,)")
    starts, causal = starts_of(cu_seqlens), flag("causal", causal)
    rank, ranks = integer("rank", rank), integer("world_size", world_size)
    if not 0 <= rank < ranks:
        raise InvalidArgument(
            f"rank is {rank}; with world_size {ranks} it must be in [0, {ranks})."
        )
    rule = get_partition("contiguous")
    check_starts(starts)
    tokens = rule.tokens_per_rank(starts[-1], ranks)
    documents = as_graph_input(DealtDocuments(starts, rule, ranks, tokens))
    first, stop = rank * tokens, (rank + 1) * tokens
    ours = [n for n, end in enumerate(starts[1:]) if end > first and starts[n] < stop]
    begins = [starts[n] for n in ours]
    end = stop if causal else starts[ours[-1] + 1]
    rows = [0, *(start - first for start in begins[1:]), tokens]
    keys = [start - begins[0] for start in (*begins, end)]
    longest, needed = (longest_of(rows), longest_of(keys)), slice(begins[0], end)
    prepared = _Prepared(documents, rank, causal, longest, needed)
    sides = []
    for numbers in (rows, keys):
        made = torch.tensor(numbers, dtype=torch.int32, device="cpu").to(cu_seqlens.device)
        setattr(made, _ATTRIBUTE, prepared)
        sides.append(made)
    return sides[0], sides[1], *longest, needed


def _each_document(pieces: int) -> ToldOf:
    """Of cu_seqlens that are local, of documents that are dealt to all ranks one by one."""
    return lambda given: EachDealt(given["cu_seqlens"], given["max_seqlen"], pieces)


def _gathered(given: dict[str, Any]) -> Prepared:
    """Of what the prepare call returned; each of its parts must be as it was."""
    prepared: object = getattr(given["cu_seqlens_q"], _ATTRIBUTE, None)
    beside: object = getattr(given["cu_seqlens_k"], _ATTRIBUTE, None)
    if not isinstance(prepared, _Prepared) or beside is not prepared:
        raise InvalidArgument(
            "cu_seqlens_q and cu_seqlens_k do not come from llama3_flash_attn_prepare_cu_seqlens "
            "as it returned them: a copy of them knows nothing of the other ranks' documents; "
            "prepare on the device of the tokens, or call ring_attn_varlen_func with cu_seqlens of "
            "the whole packed sequence."
        )
    if flag("causal", given["causal"]) != prepared.causal:
        raise InvalidArgument(
            f"causal is {given['causal']}, but cu_seqlens were prepared with causal="
            f"{prepared.causal}; it must be one in both calls."
        )
    heads, stride = given["k"].shape[-2], integer("heads_k_stride", given["heads_k_stride"])
    if stride < 1 or heads % stride:
        raise InvalidArgument(
            f"heads_k_stride is {stride}; it must divide the {heads} key heads. Nothing else "
            "follows from it: how keys come is the context's schedule."
        )
    if not _is_the_slice(given["local_k_slice"], prepared.keys):
        raise InvalidArgument(
            f"local_k_slice is {shown(given['local_k_slice'])}; it must be {prepared.keys}, which "
            "llama3_flash_attn_prepare_cu_seqlens returned."
        )
    for side, longest in zip("qk", prepared.longest, strict=True):
        check_longest(f"max_seqlen_{side}", given[f"max_seqlen_{side}"], longest)
    return Prepared(prepared.documents, prepared.rank)


def _is_the_slice(given: object, right: slice) -> bool:
    """An array, or a slice of arrays, is no truth value when it is compared."""
    if not isinstance(given, slice):
        return False
    ends = given.start, given.stop, given.step
    return all(isinstance(x, Integral | None) for x in ends) and given == right


_LOCAL = ("cu_seqlens", "max_seqlen")
_PREPARED = (
    "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "heads_k_stride",
    "local_k_slice",
)  # fmt: skip
_TYPES: dict[str, Any] = {
    "cu_seqlens": Tensor, "max_seqlen": int, "cu_seqlens_q": Tensor, "cu_seqlens_k": Tensor,
    "max_seqlen_q": int, "max_seqlen_k": int, "heads_k_stride": int, "local_k_slice": slice,
}  # fmt: skip
_TENSORS = {"": ("q", "k", "v"), "kvpacked_": ("q", "kv"), "qkvpacked_": ("qkv",)}


def _function(name: str, form: str, lengths: tuple[str, ...], told: ToldOf) -> Any:  # noqa: ANN401 - `signatures_varlen` says what
    """The function of that name and form, which takes these arguments between tensors and tail."""
    tail = dict(inspect.signature(ring_attention).parameters)
    del tail["partition"]
    hints = get_type_hints(ring_attention)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = [inspect.Parameter(x, kind, annotation=Tensor) for x in _TENSORS[form]]
    first += [inspect.Parameter(x, kind, annotation=_TYPES[x]) for x in lengths]
    parameters = [*first, *(p.replace(annotation=hints[p.name]) for p in tail.values())]
    signature = inspect.Signature(parameters, return_annotation=Output)

    def function(*arguments: Any, **named: Any) -> Output:  # noqa: ANN401
        try:
            bound = signature.bind(*arguments, **named)
        except TypeError as error:  # in the name of the function that was called
            raise TypeError(f"{name}() {error}") from None
        bound.apply_defaults()
        given = bound.arguments
        asked = ring_attention(**{x: given[x] for x in tail}, partition="")

        if is_compiling():
            tensors = _separated(form, given)
            return as_operator(tensors, told({**given, "k": tensors[1]}), asked)

        def separate() -> tuple[Tensor, ...]:
            tensors = _separated(form, given)
            given.update(zip("qkv", tensors, strict=True))
            return tensors

        like = given[_TENSORS[form][0]]
        return attended_packed(like, separate, lambda *sizes: told(given).deal(*sizes), asked)

    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]  # inspect looks for it
    function.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": Output}
    function.__doc__ = (
        f"Attention of this rank's queries over their documents: help({__name__!r}).\n\n"
        f"{', '.join(_TENSORS[form])} (tokens, ...) and {', '.join(lengths)}."
    )
    return function


def _separated(form: str, given: dict[str, Any]) -> tuple[Tensor, ...]:
    if form == "qkvpacked_":
        return unpacked("qkv", given["qkv"], 3, documents=True)
    if form == "kvpacked_":
        return cast(Tensor, given["q"]), *unpacked("kv", given["kv"], 2, documents=True)
    return given["q"], given["k"], given["v"]


ring_flash_attn_varlen_func: VarlenFunction = _function(
    "ring_flash_attn_varlen_func", "", _LOCAL, _each_document(1)
)
ring_flash_attn_varlen_kvpacked_func: VarlenKVPackedFunction = _function(
    "ring_flash_attn_varlen_kvpacked_func", "kvpacked_", _LOCAL, _each_document(1)
)
ring_flash_attn_varlen_qkvpacked_func: VarlenQKVPackedFunction = _function(
    "ring_flash_attn_varlen_qkvpacked_func", "qkvpacked_", _LOCAL, _each_document(1)
)
zigzag_ring_flash_attn_varlen_func: VarlenFunction = _function(
    "zigzag_ring_flash_attn_varlen_func", "", _LOCAL, _each_document(2)
)
zigzag_ring_flash_attn_varlen_kvpacked_func: VarlenKVPackedFunction = _function(
    "zigzag_ring_flash_attn_varlen_kvpacked_func", "kvpacked_", _LOCAL, _each_document(2)
)
zigzag_ring_flash_attn_varlen_qkvpacked_func: VarlenQKVPackedFunction = _function(
    "zigzag_ring_flash_attn_varlen_qkvpacked_func", "qkvpacked_", _LOCAL, _each_document(2)
)
llama3_flash_attn_varlen_func: GatheredFunction = _function(
    "llama3_flash_attn_varlen_func", "", _PREPARED, _gathered
)
llama3_flash_attn_varlen_kvpacked_func: GatheredKVPackedFunction = _function(
    "llama3_flash_attn_varlen_kvpacked_func", "kvpacked_", _PREPARED, _gathered
)
llama3_flash_attn_varlen_qkvpacked_func: GatheredQKVPackedFunction = _function(
    "llama3_flash_attn_varlen_qkvpacked_func", "qkvpacked_", _PREPARED, _gathered
)
