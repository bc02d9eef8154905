"""What type checkers know of the public functions: mypy reads this file, nothing runs it."""

from __future__ import annotations

from typing import assert_type

from torch import Tensor

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func, ring_attn_func
from ring_attn_bench import zigzag_ring_flash_attn_func as zigzag
from ring_attn_bench import zigzag_ring_flash_attn_kvpacked_func as kvpacked
from ring_attn_bench import zigzag_ring_flash_attn_qkvpacked_func as qkvpacked

Three = tuple[Tensor, Tensor, None]
Either = Tensor | Three


def typed(x: Tensor, ask: bool) -> None:
    """Calls, and what comes back."""
    assert_type(flash_attn_func(x, x, x).sum(), Tensor)
    assert_type(flash_attn_func(x, x, x, 0.0, None, True, backend="aten"), Tensor)
    assert_type(flash_attn_func(x, x, x, causal=True, return_attn_probs=True), Three)
    assert_type(flash_attn_varlen_func(x, x, x, x, x, 1, 1, causal=True), Tensor)
    assert_type(flash_attn_varlen_func(x, x, x, x, x, 1, 1, return_attn_probs=True), Three)
    assert_type(ring_attn_func(x, x, x, partition="zigzag"), Tensor)
    assert_type(ring_attn_func(x, x, x, partition="zigzag", return_attn_probs=True), Three)
    assert_type(zigzag(x, x, x, 0.0, None, True).sum(), Tensor)
    assert_type(zigzag(x, x, x, causal=True, return_attn_probs=True), Three)
    assert_type(kvpacked(x, x, sink=x), Tensor)
    assert_type(kvpacked(x, x, return_attn_probs=True), Three)
    assert_type(qkvpacked(x, causal=True), Tensor)
    assert_type(qkvpacked(x, return_attn_probs=True), Three)
    assert_type(flash_attn_func(x, x, x, return_attn_probs=ask), Either)
    by_position = flash_attn_func(x, x, x, 0.0, None, False, (-1, -1), 0.0, None, False, ask)
    assert_type(by_position, Either)
    assert_type(zigzag(x, x, x, return_attn_probs=ask), Either)
    assert_type(zigzag(x, x, x, 0.0, None, False, (-1, -1), None, False, ask, None), Either)
    flash_attn_func(x, x, x, causl=True)  # type: ignore[call-overload]
    zigzag(x, x, x, causl=True)  # type: ignore[call-overload]
