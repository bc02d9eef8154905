"""Tensors as TMA takes them: descriptors made on the host, one for each launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor as PlainDescriptor

from ring_attn_backends.triton.lines import FAR

if TYPE_CHECKING:
    from torch import Tensor

_TILE = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
_RAGGED_TILE = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=5)
_LINE = NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=3)
_ANY = 2**31 - 2**16
"""The length of a dim that is never left."""


def fits(tensor: Tensor) -> bool:
    """Whether TMA can read the tensor: aligned to 16 bytes, and its last dim contiguous."""
    size = tensor.element_size()
    dims = tuple(zip(tensor.shape, tensor.stride(), strict=True))
    *outer, (width, step) = dims
    aligned = all(n == 1 or (s > 0 and s * size % 16 == 0) for n, s in outer)
    return aligned and (step == 1 or width == 1) and tensor.data_ptr() % 16 == 0


def tiles(tensor: Tensor, tokens: int, width: int, *, packed: bool, gluon: bool = True) -> Any:  # noqa: ANN401 - Triton ships no types
    """Tiles of so many tokens of one head of (B, tokens, heads, dim), widened to `width` by 0.

    packed: of documents in one batch entry, each of which ends in zeros, and not in the next one.
    gluon: for a kernel in Gluon.
    """
    shape, strides = list(tensor.shape), _strides(tensor)
    block = [1, tokens, 1, width]
    if packed:
        shape, strides = _ragged(shape[1:], strides[1:])
        block = [1, *block]
    if not gluon:
        return PlainDescriptor(tensor, shape, strides, block)
    return TensorDescriptor(tensor, shape, strides, block, _RAGGED_TILE if packed else _TILE)


def lines(tensor: Tensor, tokens: int) -> Any:  # noqa: ANN401
    """So many tokens of one head of a float32 vector (B, heads, tokens)."""
    return TensorDescriptor(tensor, list(tensor.shape), _strides(tensor), [1, 1, tokens], _LINE)


def _strides(tensor: Tensor) -> list[int]:
    # a dim of one element may have any stride, TMA wants one that 16 bytes divide
    size = 16 // tensor.element_size()
    outer = zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    return [stride if count > 1 else size for count, stride in outer] + [1]


def _ragged(shape: list[int], strides: list[int]) -> tuple[list[int], list[int]]:
    """Shape and strides under which tokens past a document's end are outside, for TMA.

    For token i of a document of n tokens that stops before token e, a kernel asks for the place
    (2^30, e, 2^30 - n + i, head, 0). From token n on the third number is outside. The address comes
    out as that of token e - n + i, modulo the 2^64 that 2^30 steps of the first stride add up to.
    (Triton's own `triton.tools.ragged_tma` does the same for tensors of three dims.)
    """
    token = strides[0]
    return [_ANY, _ANY, FAR, *shape[1:]], [2**34 - token, token, *strides]
