"""What `flash_attn_with_kvcache` was given, besides the options that all functions share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from torch import Tensor

from ring_attn_bench.calls.layout import in_a_row, with_unit_stride
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.plain import flag, integer
from ring_attn_bench.contract.cache import is_latent
from ring_attn_bench.plan.cached import Dealt


class CacheGiven(NamedTuple):
    """The arguments by their names of flash-attn's, as the caller gave them; `plain` settles them.

    A tuple for the reason that `Options` is one.
    """

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    k: Tensor | None = None
    v: Tensor | None = None
    rotary_cos: Tensor | None = None
    rotary_sin: Tensor | None = None
    cache_seqlens: Tensor | int | None = None
    cache_batch_idx: Tensor | None = None
    cache_leftpad: Tensor | None = None
    block_table: Tensor | None = None
    rotary_interleaved: bool = True
    num_splits: int = 0

    def plain(self) -> CacheGiven:
        """The same: tensors as kernels read them, numbers of Python's own type.

        The cache alone is left as it is: what is appended goes into the caller's own memory.
        Raises InvalidArgument.
        """
        return self if self._is_plain() else self._converted()

    def _is_plain(self) -> bool:
        # 2 us; converting what is plain already takes three times as long
        try:
            return (
                all(_is_row(x) for x in (self.q, self.k, self.v, self.rotary_cos, self.rotary_sin))
                and all(
                    x is None
                    or type(x) is int
                    or (type(x) is Tensor and x.is_contiguous() and not x.is_neg())
                    for x in (
                        self.cache_seqlens, self.cache_batch_idx, self.cache_leftpad,
                        self.block_table,
                    )
                )
                and type(self.num_splits) is int
                and type(self.rotary_interleaved) is bool
            )  # fmt: skip
        except Exception:  # no tensor, or none that has strides: refused where all is checked
            return False

    def _converted(self) -> CacheGiven:
        seqlens = self.cache_seqlens
        if not isinstance(seqlens, Tensor | int | None) or isinstance(seqlens, bool):
            seqlens = integer("cache_seqlens", seqlens)
        return self._replace(
            q=with_unit_stride(self.q),
            k=_unless_none(with_unit_stride, self.k),
            v=_unless_none(with_unit_stride, self.v),
            rotary_cos=_unless_none(with_unit_stride, self.rotary_cos),
            rotary_sin=_unless_none(with_unit_stride, self.rotary_sin),
            cache_seqlens=in_a_row(seqlens) if isinstance(seqlens, Tensor) else seqlens,
            cache_batch_idx=_unless_none(in_a_row, self.cache_batch_idx),
            cache_leftpad=_unless_none(in_a_row, self.cache_leftpad),
            block_table=_unless_none(with_unit_stride, self.block_table),
            num_splits=integer("num_splits", self.num_splits),
            rotary_interleaved=flag("rotary_interleaved", self.rotary_interleaved),
        )

    def key(self, options: Options, dealt: Dealt | None) -> Hashable:
        """All that checks and choice look at, of plain arguments; None is nothing to remember by.

        No content of a tensor, and of a length that is a number only whether it is one.
        """
        lengths = self.cache_seqlens
        has_length = isinstance(lengths, int)
        return options.key(
            *(self.q, self.k_cache, self.v_cache, self.k, self.v),
            *(self.rotary_cos, self.rotary_sin, None if isinstance(lengths, int) else lengths),
            *(self.cache_batch_idx, self.cache_leftpad, self.block_table),
            more=(
                self.rotary_interleaved, self.num_splits, has_length, dealt,
                self._latent,
            ),
        )  # fmt: skip

    @property
    def _latent(self) -> bool:
        try:
            return is_latent(self.k_cache, self.v_cache)
        except Exception:  # no tensors, or none of memory: refused where all is checked
            return False


def _is_row(x: Tensor | None) -> bool:
    return x is None or (type(x) is Tensor and x.stride(-1) == 1 and not x.is_neg())


def _unless_none(settle: Callable[[Tensor], Tensor], x: Tensor | None) -> Tensor | None:
    return None if x is None else settle(x)
