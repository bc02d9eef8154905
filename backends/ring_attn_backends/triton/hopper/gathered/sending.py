"""The producer's way through a worklist: tiles of own keys, and of those that it waits for."""
# ruff: noqa: ANN001, ANN201 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ring_attn_backends.triton.hopper.gathered.visits import visit_of
from ring_attn_backends.triton.hopper.gathered.waiting import await_piece
from ring_attn_backends.triton.hopper.pipes import send
from ring_attn_backends.triton.hopper.programs import nth


@gluon.jit
def send_visits(
    keys, values, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, key_head,
    entries_ptr, entries, words_ptr, head_groups, heads_each,
    BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Sends every tile of a row tile's entries through both pipes, each when it is there."""
    number = key_head * 0  # of the tiles of earlier entries
    for entry in range(entries[0], entries[1]):
        piece, key_side, where = visit_of(entries_ptr, entry)
        if piece == 0:
            for i in range(where[2] + where[3]):
                key = nth(i, where, BLOCK_N)
                at = number + i
                send(keys, at, own_k_desc, key_side, key, key_head, STAGES, BLOCK_N, BLOCK_D)
                send(values, at, own_v_desc, key_side, key, key_head, STAGES, BLOCK_N, BLOCK_E)
        else:
            if words_ptr is not None:
                await_piece(words_ptr, piece, key_head // heads_each, head_groups)
            for i in range(where[2] + where[3]):
                key = nth(i, where, BLOCK_N)
                at = number + i
                send(keys, at, landed_k_desc, key_side, key, key_head, STAGES, BLOCK_N, BLOCK_D)
                send(values, at, landed_v_desc, key_side, key, key_head, STAGES, BLOCK_N, BLOCK_E)
        number += where[2] + where[3]
