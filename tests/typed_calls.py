"""What type checkers know of the public functions: mypy reads this file, nothing runs it."""

from __future__ import annotations

from typing import assert_type

from torch import Tensor

from ring_attn_bench import flash_attn, flash_attn_func, flash_attn_varlen_func, ring_attn_func
from ring_attn_bench import zigzag_ring_flash_attn_func as zigzag
from ring_attn_bench import zigzag_ring_flash_attn_kvpacked_func as kvpacked
from ring_attn_bench import zigzag_ring_flash_attn_qkvpacked_func as qkvpacked
from ring_attn_bench.flash_attn import flash_attn_kvpacked_func as kvpacked_func
from ring_attn_bench.flash_attn import flash_attn_qkvpacked_func as qkvpacked_func
from ring_attn_bench.flash_attn import flash_attn_varlen_kvpacked_func as varlen_kvpacked_func
from ring_attn_bench.flash_attn import flash_attn_varlen_qkvpacked_func as varlen_qkvpacked_func

Three = tuple[Tensor, Tensor, None]
Either = Tensor | Three
Local = tuple[Tensor, Tensor, Tensor | None]
Four = tuple[Tensor, Tensor, Tensor, Tensor]
LocalEither = Tensor | Local


def typed(x: Tensor, ask: bool) -> None:
    """Calls, and what comes back."""
    assert_type(flash_attn_func(x, x, x).sum(), Tensor)
    assert_type(flash_attn_func(x, x, x, 0.0, None, True, backend="aten"), Tensor)
    assert_type(flash_attn_func(x, x, x, causal=True, return_attn_probs=True), Local)
    assert_type(flash_attn_varlen_func(x, x, x, x, x, 1, 1, causal=True), Tensor)
    assert_type(flash_attn_varlen_func(x, x, x, x, x, 1, 1, return_attn_probs=True), Local)
    assert_type(ring_attn_func(x, x, x, partition="zigzag"), Tensor)
    assert_type(ring_attn_func(x, x, x, partition="zigzag", return_attn_probs=True), Three)
    assert_type(zigzag(x, x, x, 0.0, None, True).sum(), Tensor)
    assert_type(zigzag(x, x, x, causal=True, return_attn_probs=True), Three)
    assert_type(kvpacked(x, x, sink=x), Tensor)
    assert_type(kvpacked(x, x, return_attn_probs=True), Three)
    assert_type(qkvpacked(x, causal=True), Tensor)
    assert_type(qkvpacked(x, return_attn_probs=True), Three)
    assert_type(flash_attn_func(x, x, x, return_attn_probs=ask), LocalEither)
    by_position = flash_attn_func(x, x, x, 0.0, None, False, (-1, -1), 0.0, None, False, ask)
    assert_type(by_position, LocalEither)
    assert_type(zigzag(x, x, x, return_attn_probs=ask), Either)
    assert_type(zigzag(x, x, x, 0.0, None, False, (-1, -1), None, False, ask, None), Either)
    assert_type(flash_attn_func(x, x, x, window_size=[16, 0]), Tensor)
    assert_type(zigzag(x, x, x, window_size=x, return_attn_probs=True), Three)
    assert_type(qkvpacked_func(x, 0.0, None, True, (16, 0), 0.0, None, True), Tensor)
    assert_type(qkvpacked_func(x, causal=True, return_attn_probs=True), Local)
    assert_type(kvpacked_func(x, x, sink=x, return_attn_probs=ask), LocalEither)
    assert_type(varlen_qkvpacked_func(x, x, 1, check_cu_seqlens=True), Tensor)
    assert_type(varlen_kvpacked_func(x, x, x, x, 1, 1, return_attn_probs=True), Local)
    assert_type(flash_attn_varlen_func(x, x, x, x, x, 1, 1, seqused_k=x, s_aux=x), Tensor)
    assert_type(
        flash_attn._flash_attn_forward(x, x, x, 0.0, 1.0, True, -1, -1, 0.0, x, False), Four
    )
    qkvpacked_func(x, seqused_k=x)  # type: ignore[call-overload]
    flash_attn_func(x, x, x, causl=True)  # type: ignore[call-overload]
    zigzag(x, x, x, causl=True)  # type: ignore[call-overload]
