"""The builds of `cute` that tests compile: each switch with each head dim."""

from ring_attn_backends.cute.table import (
    ADDS,
    ADDS_CANDIDATES,
    BACKWARD,
    BACKWARD_CANDIDATES,
    CANDIDATES,
    GATHERED,
    MORE_ROWS,
    TABLE,
    Build,
)


def _of_gathered_keys(kernel, width, dtype, away, *, capped=False):
    config = ADDS[width] if kernel == "backward_adding" else BACKWARD[kernel, width]
    return Build(config, dtype, "float32", capped, kernel=GATHERED[kernel], away=away)


def _first_of(kernel, width):
    return Build(BACKWARD_CANDIDATES[kernel, width][0], "bfloat16", "bfloat16", kernel=kernel)


REPRESENTATIVE = (
    Build(TABLE[128], "bfloat16", "bfloat16"),
    Build(TABLE[128], "bfloat16", "float32", carried=True),
    Build(TABLE[128], "float16", "float16", capped=True, carried=True),
    Build(MORE_ROWS[128][0], "bfloat16", "float32", carried=True),
    Build(TABLE[64], "bfloat16", "bfloat16"),
    Build(TABLE[64], "float16", "float32"),
    Build(TABLE[64], "bfloat16", "bfloat16", capped=True, carried=True),
    *(
        Build(config, "bfloat16", "float32", width == 64, carried=True, kernel=kernel)
        for (kernel, width), config in BACKWARD.items()
    ),
    Build(TABLE[128], "bfloat16", "bfloat16", kernel="gathered.forward"),
    Build(MORE_ROWS[128][0], "bfloat16", "bfloat16", kernel="gathered.forward"),
    Build(TABLE[64], "float16", "float16", capped=True, kernel="gathered.forward"),
    Build(ADDS_CANDIDATES[128][0], "bfloat16", "float32", False, True, "backward_adding"),
    Build(ADDS_CANDIDATES[64][0], "float16", "float16", True, False, "backward_adding"),
    _of_gathered_keys("backward_dkdv", 128, "bfloat16", "bfloat16"),
    _of_gathered_keys("backward_dkdv", 64, "float16", "float32", capped=True),
    _of_gathered_keys("backward_adding", 128, "bfloat16", "bfloat16"),
    _of_gathered_keys("backward_adding", 64, "float16", "float32"),
    Build(BACKWARD["backward_dq", 128], "bfloat16", "bfloat16", kernel="gathered.backward_dq"),
    Build(BACKWARD["backward_dq", 64], "float16", "float16", True, kernel="gathered.backward_dq"),
    Build(CANDIDATES[96][0], "float16", "float32", carried=True),
    Build(CANDIDATES[192][0], "bfloat16", "bfloat16"),
    Build(CANDIDATES[256][0], "bfloat16", "bfloat16"),
    _first_of("backward_dq", 96),
    _first_of("backward_dkdv", 192),
    _first_of("backward_dk", 256),
    _first_of("backward_dv", 256),
    Build(TABLE[128], "bfloat16", "bfloat16", kernel="packed.forward"),
    Build(MORE_ROWS[128][0], "bfloat16", "bfloat16", kernel="packed.forward"),
    Build(TABLE[64], "float16", "float16", capped=True, kernel="packed.forward"),
    Build(BACKWARD["backward_dkdv", 128], "bfloat16", "bfloat16", kernel="packed.backward_dkdv"),
    Build(BACKWARD["backward_dkdv", 64], "float16", "float16", True, kernel="packed.backward_dkdv"),
    Build(BACKWARD["backward_dq", 128], "bfloat16", "bfloat16", kernel="packed.backward_dq"),
    Build(BACKWARD["backward_dq", 64], "float16", "float16", True, kernel="packed.backward_dq"),
)
