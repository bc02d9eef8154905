"""From products of queries and keys to scores, tile by tile; and which of them a mask allows."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton
import triton.language as tl


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

    Base 2 because the hardware has exp2: `arguments` folds log2(e) into scale, or into cap.
    """
    s = products * scale
    if CAPPED:
        s = cap * tanh(s, PRECISE)
    return s


@triton.jit
def slope_of(slopes_ptr, strides, batch, head):
    """A head's ALiBi slope, in base 2 as the scores are."""
    return tl.load(slopes_ptr + batch * strides[0] + head * strides[1]) * 1.4426950408889634


@triton.jit
def biased(s, slope, rows, keys):
    """Scores less slope * |row - key| (Press, Smith & Lewis 2022, ALiBi).

    rows, keys: positions as float32, counted from one in the tile, so that they are exact.
    """
    return s - slope * tl.abs(rows - keys)


@triton.jit
def allowed(rows, keys, low, high):
    """Where the band low <= row - key <= high allows a pair."""
    distance = rows - keys
    return (distance >= low) & (distance <= high)
