"""A pipe of tiles through shared memory, from the warp that brings them to the warpgroups.

Tile i lies in slot i % stages. A slot's `full` barrier completes a phase when TMA has written all
of its bytes, its `empty` barrier when every warp of every reader has said that it read it. Phases
are numbered 0, 1, 0, 1, ..., and a wait for a number returns once that phase is complete; the one
before the first counts as complete (PTX ISA, mbarrier.test_wait). So readers of tile i wait for
number (i // stages) % 2, and its writer, for whom the slot must be empty, for the other number.
"""
# ruff: noqa: ANN001, ANN201 - cutlass infers what registers hold

from dataclasses import dataclass
from typing import Any

import cutlass
from cutlass import cute
from cutlass.cute import arch
from cutlass.cute.nvgpu import cpasync

from ring_attn_backends.cute.programs import nth


@dataclass(frozen=True)
class Pipe:
    """Barriers (stages,), and where the slots lie: (tokens, columns, stages)."""

    full: Any
    empty: Any
    slots: Any
    stages: int

    @property
    def bytes(self) -> int:
        """Of a slot: what TMA counts, of rows beyond the last one, too."""
        slot = self.slots[None, None, 0]
        return int(cute.size(slot) * slot.element_type.width // 8)


def new_pipe(memory, dtype, layout):
    """A pipe in the program's shared memory, of as many slots as the layout has."""
    stages = cute.size(layout, mode=[2])
    barriers = memory.allocate_array(cutlass.Int64, 2 * stages)
    # 1024: what TMA's 128-byte swizzle repeats after
    slots = memory.allocate_tensor(dtype, layout.outer, 1024, layout.inner)
    return Pipe(barriers, barriers + stages, slots, stages)


def new_vectors(memory, count, rows, stages):
    """A pipe of `count` float32 for each row, (rows, count), which a warp writes row by lane."""
    barriers = memory.allocate_array(cutlass.Int64, 2 * stages)
    layout = cute.make_layout((rows, count, stages))
    slots = memory.allocate_tensor(cutlass.Float32, layout, 128)
    return Pipe(barriers, barriers + stages, slots, stages)


def begin(pipe, readers, writers=1):
    """One thread sets a pipe's barriers up; readers: how many warps read each tile.

    writers: threads that write it and say so each, or the one that asks TMA.
    """
    for slot in range(pipe.stages):
        arch.mbarrier_init(pipe.full + slot, writers)
        arch.mbarrier_init(pipe.empty + slot, readers)


def load_of(atom, matrix, pipe):
    """What `order` takes: how tiles of a matrix (tokens, columns) are copied, from and to where.

    Of (tokens, columns, heads): what `load_at` takes.
    """
    tokens, columns, _ = pipe.slots.shape
    more = (None,) * (cute.rank(matrix) - 2)
    tiles = cute.local_tile(matrix, (cute.size(tokens), cute.size(columns)), (None, 0, *more))
    slots, tiles = cpasync.tma_partition(
        atom, 0, cute.make_layout(1),
        cute.group_modes(pipe.slots, 0, 2), cute.group_modes(tiles, 0, 2),
    )  # fmt: skip
    return atom, tiles, slots


def load_at(load, head):
    """What `order` takes, for a head of those that `load` is of."""
    atom, tiles, slots = load
    return atom, tiles[None, None, head], slots


def bring(load, tile, pipe, i):
    """The writer's warp waits until tile i's slot is empty, and has TMA write a tile to it."""
    slot, phase = i % pipe.stages, i // pipe.stages % 2
    arch.mbarrier_wait(pipe.empty + slot, 1 - phase)
    order(load, tile, pipe, slot)


def order(load, tile, pipe, slot):
    """TMA writes a tile to a slot that is empty; its bytes are announced before they come."""
    atom, tiles, slots = load
    with arch.elect_one():
        arch.mbarrier_arrive_and_expect_tx(pipe.full + slot, pipe.bytes)
    # cute.copy elects a thread itself: one election inside another would never return
    cute.copy(atom, tiles[None, tile], slots[None, slot], tma_bar_ptr=pipe.full + slot)


@cute.jit
def bring_pairs(loads, pipes, where, before):
    """Keys and values of all tiles that are seen, one at least, as consumers ask for them.

    before: how many tiles the pipes have carried already.
    """
    (k_load, v_load), (keys, values) = loads, pipes
    count = where[2] + where[3]
    bring(k_load, nth(0, where), keys, before)
    for i in cutlass.range(1, count, unroll=1):
        bring(k_load, nth(i, where), keys, before + i)
        bring(v_load, nth(i - 1, where), values, before + i - 1)
    bring(v_load, nth(count - 1, where), values, before + count - 1)


@cute.jit
def bring_abreast(loads, pipes, where, before):
    """The same, of consumers that ask for a tile's keys and values together; there may be none."""
    (k_load, v_load), (keys, values) = loads, pipes
    for i in cutlass.range(where[2] + where[3], unroll=1):
        tile = nth(i, where)
        bring(k_load, tile, keys, before + i)
        bring(v_load, tile, values, before + i)


@cute.jit
def tell(pipe, i, numbers, lane):
    """A warp writes its vectors' numbers to tile i's slot, once it is empty.

    numbers: for each vector the thread's own, of row `lane`, `lane + 32`, and so on.
    """
    slot = i % pipe.stages
    arch.mbarrier_wait(pipe.empty + slot, 1 - i // pipe.stages % 2)
    for vector in cutlass.range_constexpr(len(numbers)):
        for part in cutlass.range_constexpr(cute.size(numbers[vector])):
            pipe.slots[32 * part + lane, vector, slot] = numbers[vector][part]
    arch.mbarrier_arrive(pipe.full + slot)


def await_empty(pipe, i):
    """Warpgroups that write tile i themselves wait until all of its slot is read; returns it."""
    slot = i % pipe.stages
    arch.mbarrier_wait(pipe.empty + slot, 1 - i // pipe.stages % 2)
    return slot


@cute.jit
def hand_on(pipe, i, lane):
    """A warp has written its part of tile i, for tensor cores or TMA: one of its lanes says so.

    These read by a proxy of their own, before which each thread fences what it has written itself.
    """
    arch.fence_view_async_shared()
    arch.sync_warp()
    if lane == 0:
        arch.mbarrier_arrive(pipe.full + i % pipe.stages)


def add(load, tile, pipe, slot):
    """TMA adds a slot to a tile in global memory; returns when the slot was read.

    load: of `load_of`, of an atom that adds. All lanes wait for what one of them has asked for.
    """
    atom, tiles, slots = load
    cute.copy(atom, slots[None, slot], tiles[None, tile])
    arch.cp_async_bulk_commit_group()
    arch.cp_async_bulk_wait_group(0, read=True)


def receive(pipe, i):
    """A reader waits for tile i; returns its slot."""
    slot = i % pipe.stages
    arch.mbarrier_wait(pipe.full + slot, i // pipe.stages % 2)
    return slot


@cute.jit
def release(pipe, i, lane, there=True):
    """A reader's warp has read tile i, if it is `there`: one of its lanes says so."""
    if (lane == 0) & there:
        arch.mbarrier_arrive(pipe.empty + i % pipe.stages)


def release_loaded(pipe, i, lane):
    """As `release`, of a tile whose numbers the lanes have loaded themselves.

    An arrival speaks for what its own thread has read (PTX, memory consistency). What tensor cores
    read is done when their products are, which the whole warp waits for.
    """
    arch.sync_warp()
    release(pipe, i, lane)
