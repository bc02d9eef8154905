"""flash-attn's calls below autograd, by any backend: what other people's rings are made of.

Their names, order, defaults and returns are those of flash-attn 2.8.3, whose tensors they take
(help("ring_attn_bench.attention")), and nothing has a gradient. What differs:

    backend          `auto` takes the first that can do both passes, and both take the same one
    S_dmask          the pattern of dropout as flash_attn_func gives it, where return_softmax asks
    rng_state        int64 (2,), on the CPU: the seed, from which a backward drops as its forward
    softmax_d        delta, the sums of dout * out: as many as queries, not a multiple of 128

softmax_lse, out and dout of a backward are those of whole rows, however many calls saw their keys:
so what one call gives is an exact share of the gradients (Dao 2023, FlashAttention-2, algorithm 2).
dq, dk and dv are written in place, in whatever dtype they have; None leaves one out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic

import torch
from torch import Tensor

from ring_attn_bench.calls.attend import attend
from ring_attn_bench.calls.autocast import without_autocast
from ring_attn_bench.calls.dense import device_of
from ring_attn_bench.calls.options import Options, drawn_seed
from ring_attn_bench.calls.plain import flag, text
from ring_attn_bench.calls.prepare import Made, Way, prepared
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.errors import InvalidArgument, Unsupported
from ring_attn_bench.flash_attn.written import Written, write_gradients
from ring_attn_bench.one_device import dropped
from ring_attn_bench.one_device.call import OneDevice
from ring_attn_bench.one_device.documents_way import OfDocuments
from ring_attn_bench.one_device.used_keys import with_used_keys
from ring_attn_bench.plan.problem import Documents, Problem

FourTensors = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class _ForBoth(Generic[Made]):
    """A `Way` whose kernel is one that can do both passes, and the same one in both.

    Under dropout whether the backward is to be deterministic is not asked, or another kernel might
    be chosen for it, with another pattern: it always is.
    """

    way: Way[Made]
    calls: Remembered[Made] = field(default_factory=Remembered)
    ranks: None = None

    def made(self, problem: Problem, options: Options) -> Made:
        deterministic = problem.deterministic or problem.dropout_p > 0
        return self.way.made(replace(problem, backward=True, deterministic=deterministic), options)


_ONE_DEVICE, _OF_DOCUMENTS = _ForBoth(OneDevice()), _ForBoth(OfDocuments())


def _flash_attn_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    return_softmax: bool,
    *,
    backend: str = "auto",
) -> FourTensors:
    """out (batch, queries, heads_q, head_dim), softmax_lse, S_dmask and rng_state."""
    window = window_size_left, window_size_right
    options = Options(
        backend, dropout_p, None, softmax_scale, causal, window, softcap, alibi_slopes
    )
    with _below_autograd(q):
        call, given, options = prepared(q, k, v, options, _ONE_DEVICE)
        asked = _asks_for_pattern(return_softmax, options)
        call = call.seeded(seed := _drawn(options))
        out, lse = attend(call, given, return_attn_probs=True)[:2]
        pattern = dropped.of_sequence(call, given) if asked else None
    return out, lse, _or_nothing(pattern, q), _as_state(seed)


def _flash_attn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    rng_state: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Writes dq, dk and dv of a forward that gave out and softmax_lse; returns softmax_d."""
    window = window_size_left, window_size_right
    options = Options(
        backend, dropout_p, None, softmax_scale, causal, window, softcap, alibi_slopes,
        deterministic,
    )  # fmt: skip
    with _below_autograd(q):
        call, given, options = prepared(q, k, v, options, _ONE_DEVICE)
        call = call.seeded(_seed_of(rng_state, options))
        written = Written(dout, out, softmax_lse, dq, dk, dv)
        return write_gradients(call, given, options, written)


def _flash_attn_varlen_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
    block_table: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    seqused_k: Tensor | None = None,
    zero_tensors: bool = False,
    *,
    backend: str = "auto",
) -> FourTensors:
    """The same of packed documents. zero_tensors: changes nothing, as nothing is left unwritten."""
    _refuse_caches(backend, block_table=block_table, leftpad_k=leftpad_k)
    flag("zero_tensors", zero_tensors)
    window = window_size_left, window_size_right
    options = Options(
        backend, dropout_p, None, softmax_scale, causal, window, softcap, alibi_slopes
    )
    documents = Documents(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    with _below_autograd(q):
        if seqused_k is not None:
            k, v, documents = with_used_keys(q, k, v, documents, seqused_k, checks=False)
        call, given, options = prepared(q, k, v, options, _OF_DOCUMENTS, documents)
        asked = _asks_for_pattern(return_softmax, options)
        call = call.seeded(seed := _drawn(options))
        out, lse = attend(call, given, return_attn_probs=True)[:2]
        pattern = dropped.of_documents(call, given) if asked else None
    return out, lse, _or_nothing(pattern, q), _as_state(seed)


def _flash_attn_varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    rng_state: Tensor | None = None,
    zero_tensors: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """The same of packed documents."""
    flag("zero_tensors", zero_tensors)
    window = window_size_left, window_size_right
    options = Options(
        backend, dropout_p, None, softmax_scale, causal, window, softcap, alibi_slopes,
        deterministic,
    )  # fmt: skip
    documents = Documents(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    with _below_autograd(q):
        call, given, options = prepared(q, k, v, options, _OF_DOCUMENTS, documents)
        call = call.seeded(_seed_of(rng_state, options))
        written = Written(dout, out, softmax_lse, dq, dk, dv)
        return write_gradients(call, given, options, written)


@contextmanager
def _below_autograd(q: object) -> Iterator[None]:
    """Neither gradients nor autocast, which a backward under autograd does not see."""
    with torch.no_grad(), without_autocast(device_of(q).type):
        yield


def _asks_for_pattern(return_softmax: bool, options: Options) -> bool:
    asks = flag("return_softmax", return_softmax)
    if asks and not options.dropout_p:
        raise InvalidArgument(
            "return_softmax asks for the pattern of dropout, and dropout_p is 0, which drops "
            "nothing; pass return_softmax=dropout_p > 0."
        )
    return asks


def _or_nothing(pattern: Tensor | None, q: Tensor) -> Tensor:
    return q.new_empty(0) if pattern is None else pattern


def _drawn(options: Options) -> int:
    return drawn_seed() if options.dropout_p else 0


def _as_state(seed: int) -> Tensor:
    # not on a GPU, where the backward would have to wait to read it
    return torch.tensor([seed, 0], dtype=torch.int64, device="cpu")


def _seed_of(rng_state: Tensor | None, options: Options) -> int:
    if not options.dropout_p:
        return 0
    is_one = isinstance(rng_state, Tensor) and rng_state.dtype is torch.int64
    if rng_state is None or not is_one or rng_state.shape != (2,) or rng_state[0] < 0:
        raise InvalidArgument(
            "rng_state must be what the forward returned, int64 (2,), for its backward to drop the "
            f"same weights (dropout_p is {options.dropout_p}), got {_shown(rng_state)}."
        )
    return int(rng_state[0])


def _shown(x: object) -> str:
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def _refuse_caches(backend: object, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise Unsupported(
                text("backend", backend, "auto"), f"there is no {name} in packed calls"
            )
