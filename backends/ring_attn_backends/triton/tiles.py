"""What every kernel does with a tile: find those it must visit, load one, score one."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


@triton.jit
def reach(first, last, below, above, length, BLOCK: tl.constexpr):
    """The tiles of [0, length) that indices first to last see, if x sees x + below to x + above.

    Returns start, whole_start, whole_stop, stop, in tiles of BLOCK: everything seen lies in
    [start, stop), and in [whole_start, whole_stop) every pair is allowed. The tiles between are
    the edges, which need a mask: the ends of the band, and the last tile if it is not full.
    """
    start = tl.maximum(first + below, 0) // BLOCK
    stop = tl.cdiv(tl.maximum(tl.minimum(last + above + 1, length), 0), BLOCK)
    stop = tl.maximum(stop, start)
    whole_start = tl.minimum(tl.cdiv(tl.maximum(last + below, 0), BLOCK), stop)
    whole_stop = tl.maximum(tl.minimum(first + above + 1, length), 0) // BLOCK
    return start, whole_start, tl.maximum(whole_stop, whole_start), stop


@triton.jit
def load_tile(
    base, first, stride, length,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, CHECK: tl.constexpr,
):  # fmt: skip
    """ROWS rows from `first` on of a (length, DIM) matrix, as (ROWS, COLS), 0 outside of it.

    CHECK: whether there may be rows beyond `length`.
    """
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, COLS)[None, :]
    # 64 bits for the tile's place (a shard may pass 2^31 elements), 32 inside it
    pointers = base + first.to(tl.int64) * stride + (rows * stride + cols)
    if CHECK and DIM < COLS:
        tile = tl.load(pointers, mask=(first + rows < length) & (cols < DIM), other=0.0)
    elif CHECK:
        tile = tl.load(pointers, mask=first + rows < length, other=0.0)
    elif DIM < COLS:
        tile = tl.load(pointers, mask=cols < DIM, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def store_tile(
    base, first, stride, length, tile,
    DIM: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Writes what `load_tile` would read, in the tensor's dtype."""
    rows = tl.arange(0, ROWS)[:, None]
    cols = tl.arange(0, COLS)[None, :]
    pointers = base + first.to(tl.int64) * stride + (rows * stride + cols)
    tile = tile.to(base.dtype.element_ty)
    tl.store(pointers, tile, mask=(first + rows < length) & (cols < DIM))


@triton.jit
def tanh(x, PRECISE: tl.constexpr):
    """tanh by exp2, which saturates at +-1 and hands NaN on.

    PRECISE: to float32's last bits near 0 also, where 1 - 2 / (exp(2x) + 1) cancels (to 1e-7
    absolute); by Cephes' polynomial for |x| < 0.625 (Moshier, tanhf).
    """
    y = 1.0 - 2.0 / (tl.exp2(x * 2.8853900817779268) + 1.0)  # 2 log2(e)
    if PRECISE:
        z = x * x
        series = -5.70498872745e-3 * z + 2.06390887954e-2
        series = series * z - 5.37397155531e-2
        series = series * z + 1.33314422036e-1
        series = series * z - 3.33332819422e-1
        y = tl.where(tl.abs(x) < 0.625, x + x * z * series, y)
    return y


@triton.jit
def base2_scores(products, scale, cap, CAPPED: tl.constexpr, PRECISE: tl.constexpr):
    """log2(e) times the scores of products q.k: scale * products, or cap * tanh(scale * products).

    Base 2 because the hardware has exp2: `launch` folds log2(e) into scale, or into cap.
    """
    s = products * scale
    if CAPPED:
        s = cap * tanh(s, PRECISE)
    return s


@triton.jit
def allowed(rows, keys, low, high):
    """Where the band low <= row - key <= high allows a pair."""
    distance = rows - keys
    return (distance >= low) & (distance <= high)
