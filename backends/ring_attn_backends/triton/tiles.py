"""Tiles of a (tokens, head dim) matrix in memory: find the matrix, load a tile, store one, add."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


@triton.jit
def matrix(base, strides, batch, head, token, PACKED: tl.constexpr):
    """Where a head's matrix begins; strides (batch, token, head), batch and head in 64 bits.

    PACKED: at a document's first token; all documents are in one batch entry, whose stride is 0.
    """
    base += batch * strides[0] + head * strides[2]
    if PACKED:
        base += token.to(tl.int64) * strides[1]
    return base


@triton.jit
def vector(base, strides, batch, head, token, PACKED: tl.constexpr):
    """Where a head's vector over tokens begins; strides (batch, head)."""
    base += batch * strides[0] + head * strides[1]
    if PACKED:
        base += token
    return base


@triton.jit
def load_tile(
    base, first, stride, stop,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CHECK: tl.constexpr,
):  # fmt: skip
    """Tokens `first` to `first + ROWS` of a matrix (stop, DIM), as (ROWS, COLS), 0 outside of it.

    CHECK: whether there may be tokens at or beyond `stop`.
    """
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, COLS)[None, :]
    # 64 bits for the tile's place (a shard may pass 2^31 elements), 32 inside it
    pointers = base + first.to(tl.int64) * stride + (rows * stride + cols)
    if CHECK and DIM < COLS:
        tile = tl.load(pointers, mask=(first + rows < stop) & (cols < DIM), other=0.0)
    elif CHECK:
        tile = tl.load(pointers, mask=first + rows < stop, other=0.0)
    elif DIM < COLS:
        tile = tl.load(pointers, mask=cols < DIM, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def store_tile(
    base, first, stride, stop, tile,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Writes what `load_tile` would read, in the tensor's dtype.

    ADD: adds to what is there; one program owns a tile, so that needs no atomics.
    """
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, COLS)[None, :]
    pointers = base + first.to(tl.int64) * stride + (rows * stride + cols)
    inside = (first + rows < stop) & (cols < DIM)
    if ADD:
        tile += tl.load(pointers, mask=inside, other=0.0)
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_vector(base, first, stop, LENGTH: tl.constexpr, CHECK: tl.constexpr):
    """LENGTH elements of a contiguous vector from `first` on, 0 at or beyond `stop`."""
    at = first + tl.arange(0, LENGTH)
    return tl.load(base + at, mask=at < stop, other=0.0) if CHECK else tl.load(base + at)
