"""Tensors as TMA takes them: descriptors made on the host, one for each launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor as PlainDescriptor

if TYPE_CHECKING:
    from torch import Tensor

_TILE = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
_LINE = NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=3)


def fits(tensor: Tensor) -> bool:
    """Whether TMA can read the tensor: aligned to 16 bytes, and its last dim contiguous."""
    size = tensor.element_size()
    dims = tuple(zip(tensor.shape, tensor.stride(), strict=True))
    *outer, (width, step) = dims
    aligned = all(n == 1 or (s > 0 and s * size % 16 == 0) for n, s in outer)
    return aligned and (step == 1 or width == 1) and tensor.data_ptr() % 16 == 0


def tiles(tensor: Tensor, tokens: int, width: int) -> Any:  # noqa: ANN401 - Triton ships no types
    """Tiles of so many tokens of one head of (B, tokens, heads, dim), widened to `width` by 0."""
    block = [1, tokens, 1, width]
    return TensorDescriptor(tensor, list(tensor.shape), _strides(tensor), block, _TILE)


def plain_tiles(tensor: Tensor, tokens: int, width: int) -> Any:  # noqa: ANN401
    """The same for a kernel that is not in Gluon."""
    block = [1, tokens, 1, width]
    return PlainDescriptor(tensor, list(tensor.shape), _strides(tensor), block)


def lines(tensor: Tensor, tokens: int) -> Any:  # noqa: ANN401
    """So many tokens of one head of a float32 vector (B, heads, tokens).

    It is copied if its length or its beginning is odd: 2 / dim of q's bytes.
    """
    if not fits(tensor):
        batch, heads, length = tensor.shape
        copied = tensor.new_empty(batch, heads, -(-length // 4) * 4)[..., :length]
        tensor = copied.copy_(tensor)
    return TensorDescriptor(tensor, list(tensor.shape), _strides(tensor), [1, 1, tokens], _LINE)


def _strides(tensor: Tensor) -> list[int]:
    # a dim of one element may have any stride, TMA wants one that 16 bytes divide
    size = 16 // tensor.element_size()
    outer = zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    return [stride if count > 1 else size for count, stride in outer] + [1]
