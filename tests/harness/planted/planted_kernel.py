"""A kernel that writes where there is no memory: the device takes no more work of its process."""

import triton
import triton.language as tl


@triton.jit
def _store(pointer, offset):
    tl.store(pointer + offset, 0.0)


def write_far_away(x):
    """Enqueues it; the next wait for the device raises."""
    _store[(1,)](x, 2**45)
