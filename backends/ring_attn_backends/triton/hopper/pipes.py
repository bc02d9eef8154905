"""A pipe carries tiles from a producer warp to consumer warpgroups through slots in shared memory.

A pipe is a tuple (slots, full, empty): `full` has one mbarrier for each slot, which completes when
the bytes that TMA was told to bring are there, `empty` one that all consumers arrive at when they
are done with the slot. The i-th tile goes through slot i % STAGES.
"""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma


@gluon.jit
def new_pipe(
    dtype: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, COLS: gl.constexpr,
    READERS: gl.constexpr,
):  # fmt: skip
    """A pipe of tiles (ROWS, COLS) of 16-bit numbers, read by so many warpgroups."""
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    slots = gl.allocate_shared_memory(dtype, [STAGES, ROWS, COLS], layout)
    return slots, barriers(STAGES, 1), barriers(STAGES, READERS)


@gluon.jit
def barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """Fresh mbarriers."""
    made = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(COUNT):
        mbarrier.init(made.index(index), count=ARRIVALS)
    return made


@gluon.jit
def send(
    pipe, i, desc, batch, token, head,
    STAGES: gl.constexpr, ROWS: gl.constexpr, COLS: gl.constexpr,
):  # fmt: skip
    """The producer's side: waits for the i-th tile's slot, and has TMA fill it.

    desc: of a tensor (B, tokens, heads, dim); what lies outside of it arrives as 0.
    """
    slot = i % STAGES
    full = pipe[1].index(slot)
    mbarrier.wait(pipe[2].index(slot), ((i // STAGES) & 1) ^ 1)
    mbarrier.expect(full, ROWS * COLS * 2)
    tma.async_copy_global_to_shared(desc, [batch, token, head, 0], full, pipe[0].index(slot))


@gluon.jit
def send_with_vector(
    pipe, vectors, i, desc, vector_desc, batch, token, head,
    STAGES: gl.constexpr, ROWS: gl.constexpr, COLS: gl.constexpr,
):  # fmt: skip
    """As `send`, with the ROWS elements of a float32 vector (B, heads, tokens) beside the tile."""
    slot = i % STAGES
    full = pipe[1].index(slot)
    mbarrier.wait(pipe[2].index(slot), ((i // STAGES) & 1) ^ 1)
    mbarrier.expect(full, ROWS * COLS * 2 + ROWS * 4)
    tma.async_copy_global_to_shared(desc, [batch, token, head, 0], full, pipe[0].index(slot))
    tma.async_copy_global_to_shared(vector_desc, [batch, head, token], full, vectors.index(slot))


@gluon.jit
def receive(pipe, i, STAGES: gl.constexpr):
    """The consumers' side: the i-th tile, as soon as it is there."""
    slot = i % STAGES
    mbarrier.wait(pipe[1].index(slot), (i // STAGES) & 1)
    return pipe[0].index(slot)


@gluon.jit
def release(pipe, i, STAGES: gl.constexpr):
    """Says that this warpgroup is done with the i-th tile."""
    mbarrier.arrive(pipe[2].index(i % STAGES), count=1)
