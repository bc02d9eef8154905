"""How large the memory is that a rank's peers reach, and that stays."""

from __future__ import annotations

from ring_attn_bench.ring.transports.copy_engine.words import SLOTS, Words

_ALIGNED = 512


def aligned(size: int) -> int:
    """What room for so many bytes takes."""
    return -(-max(size, 1) // _ALIGNED) * _ALIGNED


def outgoing_bytes(keys: int, regions: int = SLOTS) -> int:
    """The area of packed keys: one pass's are read while the next one's are packed."""
    return regions * aligned(keys)


def inbox_bytes(gradients: int, world_size: int) -> int:
    """The area of packed gradients, with room for all of this rank's keys from every other rank."""
    return (world_size - 1) * aligned(gradients)


def kept_bytes(world_size: int, keys: int, gradients: int | None) -> int:
    """`CopyEngine.kept_bytes` of a ring that has served one size of call.

    keys: bytes of a rank's packed keys. gradients: of these packed, as they travel; None without a
    backward. The device rounds each area up to its pages, of 2 MiB on an H200.
    """
    inbox = 0 if gradients is None else inbox_bytes(gradients, world_size)
    return Words(world_size).bytes + outgoing_bytes(keys) + inbox
