"""The arithmetic of a GPU's threads, as `online` asks for it; numpy has the same names in tests."""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

from cutlass import BFloat16, Boolean, Float32, Int32, cutlass_dsl
from cutlass import max as most_of
from cutlass import min as least_of
from cutlass._mlir.dialects import llvm
from cutlass.cute import arch, math

MINUS_INF = float("-inf")


def most(a, b):
    """The larger of two: for floats one instruction, which takes a number rather than NaN."""
    return arch.fmax(a, b) if _float(a) or _float(b) else most_of(a, b)


def least(a, b):
    """The smaller of two."""
    return arch.fmin(a, b) if _float(a) or _float(b) else least_of(a, b)


def plus(a, b):
    """Their sum."""
    return a + b


def where(condition, a, b):
    """a where the condition holds, else b: a select, and no branch."""
    kind = Float32 if _float(a) or _float(b) else Int32
    both = kind(a).ir_value(), kind(b).ir_value()
    return kind(cutlass_dsl.select_(Boolean(condition).ir_value(), *both))


def exp2(x):
    """ex2.approx.ftz: 0 for -inf, two ulps at most (PTX ISA)."""
    return math.exp2(Float32(x), fastmath=True)


def log2(x):
    """lg2.approx.ftz: -inf for 0."""
    return math.log2(Float32(x), fastmath=True)


def reciprocal(x):
    """rcp.approx.ftz: one ulp at most, 0 for inf."""
    return arch.rcp_approx(Float32(x))


def is_infinite(x):
    """Whether it is inf or -inf."""
    return arch.fmax(Float32(x), -Float32(x)) == Float32(float("inf"))


def quad(x, combine):
    """What the four lanes that share a row make of their numbers, in each of them."""
    for distance in (1, 2):
        x = combine(x, arch.shuffle_sync_bfly(x, offset=distance))
    return x


def pack(first, second, dtype):
    """Two numbers as 16 bits each, the first in the lower half, in one instruction."""
    kind = "bf16x2" if dtype is BFloat16 else "f16x2"
    packed = llvm.inline_asm(
        Int32.mlir_type, [Float32(x).ir_value() for x in (second, first)],
        f"cvt.rn.{kind}.f32 $0, $1, $2;", "=r,f,f",
    )  # fmt: skip
    return Int32(packed)


def lane_now():
    """The thread's lane, asked for where this stands.

    What is made of it stays in no register from one tile to the next, as what is made of `lane_idx`
    does: the compiler takes that out of the loop, a dozen addresses, and spills others for them.
    """
    told = llvm.inline_asm(Int32.mlir_type, [], "mov.u32 $0, %laneid;", "=r", has_side_effects=True)
    return Int32(told)


def _float(x) -> bool:
    return isinstance(x, float | Float32)
