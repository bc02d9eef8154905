"""A pipe carries tiles from a producer warp to consumer warpgroups through slots in shared memory.

A pipe is a tuple (slots, full, empty): `full` has one mbarrier for each slot, which completes when
the bytes that TMA was told to bring are there, `empty` one that all consumers arrive at when they
are done with the slot. The i-th tile goes through slot i % STAGES.
"""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from ring_attn_backends.triton.hopper.programs import place


@gluon.jit
def new_pipe(
    dtype: gl.constexpr, STAGES: gl.constexpr, ROWS: gl.constexpr, COLS: gl.constexpr,
    READERS: gl.constexpr, STORED: gl.constexpr = False,
):  # fmt: skip
    """A pipe of tiles (ROWS, COLS) of 16-bit numbers, read by so many warpgroups.

    STORED: with each tile the producer itself stores a vector, and says so (`send_with_vector`).
    """
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    slots = gl.allocate_shared_memory(dtype, [STAGES, ROWS, COLS], layout)
    return slots, barriers(STAGES, 2 if STORED else 1), barriers(STAGES, READERS)


@gluon.jit
def barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """Fresh mbarriers."""
    made = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(COUNT):
        mbarrier.init(made.index(index), count=ARRIVALS)
    return made


@gluon.jit
def bring(desc, side, token, head, full, slot):
    """Has TMA fill a slot with a tile of a side (see `programs`), and tell `full`."""
    tma.async_copy_global_to_shared(desc, place(desc, side, token, head), full, slot)


@gluon.jit
def send(
    pipe, i, desc, side, token, head,
    STAGES: gl.constexpr, ROWS: gl.constexpr, COLS: gl.constexpr,
):  # fmt: skip
    """The producer's part: waits for the i-th tile's slot, and has TMA fill it, as `bring`."""
    slot = i % STAGES
    full = pipe[1].index(slot)
    mbarrier.wait(pipe[2].index(slot), ((i // STAGES) & 1) ^ 1)
    mbarrier.expect(full, ROWS * COLS * 2)
    bring(desc, side, token, head, full, pipe[0].index(slot))


@gluon.jit
def send_with_vector(
    pipe, vectors, i, desc, side, token, head, vector_desc, vector,
    STAGES: gl.constexpr, ROWS: gl.constexpr, COLS: gl.constexpr,
):  # fmt: skip
    """As `send`; beside the tile goes a vector of ROWS numbers.

    By TMA from a descriptor, or where this is None the vector as it is, through a pipe that is
    STORED: at a line that does not begin at a multiple of 16 bytes, and a document begins anywhere,
    TMA stops with an illegal instruction.
    """
    slot = i % STAGES
    full = pipe[1].index(slot)
    mbarrier.wait(pipe[2].index(slot), ((i // STAGES) & 1) ^ 1)
    by_tma: gl.constexpr = vector_desc is not None
    mbarrier.expect(full, ROWS * COLS * 2 + (ROWS * 4 if by_tma else 0))
    bring(desc, side, token, head, full, pipe[0].index(slot))
    if by_tma:
        at = [side[0], head, token]
        tma.async_copy_global_to_shared(vector_desc, at, full, vectors.index(slot))
    else:
        vectors.index(slot).store(vector)
        tl.debug_barrier()  # all threads of the producer's warp have stored
        mbarrier.arrive(full, count=1)


@gluon.jit
def receive(pipe, i, STAGES: gl.constexpr):
    """The consumers' part: the i-th tile, as soon as it is there."""
    slot = i % STAGES
    mbarrier.wait(pipe[1].index(slot), (i // STAGES) & 1)
    return pipe[0].index(slot)


@gluon.jit
def release(pipe, i, STAGES: gl.constexpr):
    """Says that this warpgroup is done with the i-th tile."""
    mbarrier.arrive(pipe[2].index(i % STAGES), count=1)
