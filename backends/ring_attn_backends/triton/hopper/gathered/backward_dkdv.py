"""The backward kernel for dk, dv of the keys of many ranks, in one launch that waits for them.

As `backward_dkdv`, but that a key tile walks a list of visits (`worklist`), and first waits for
its own piece, if that comes from another rank. Gradients of own keys and of landed ones have
places of their own: the one stays, the other goes home.
"""
# ruff: noqa: ANN001, ANN202 - Triton infers what a kernel's arguments are

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from ring_attn_backends.triton.hopper.gathered.forward import RUN_TIME
from ring_attn_backends.triton.hopper.gathered.visits import mask_of, tile_of, visit_of
from ring_attn_backends.triton.hopper.gathered.waiting import await_piece, given_up
from ring_attn_backends.triton.hopper.key_gradients import nth_of_heads, numbers, put, step
from ring_attn_backends.triton.hopper.pipes import barriers, bring, new_pipe, send_with_vector
from ring_attn_backends.triton.hopper.programs import matrix_of, tile_and_head


@gluon.jit(do_not_specialize=(*RUN_TIME, "splits"))
def gathered_dkdv(
    dout_desc, q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc, lse_desc, delta_desc,
    lse_ptr, delta_ptr, own_dk_ptr, own_dv_ptr, landed_dk_ptr, landed_dv_ptr,
    tiles_ptr, entries_ptr, words_ptr, lse_strides, delta_strides,
    own_dk_strides, own_dv_strides, landed_dk_strides, landed_dv_strides,
    own_dk_split, own_dv_split, landed_dk_split, landed_dv_split,
    tiles, heads, all_heads, section, group, splits, head_groups, heads_each, M,
    scale, cap, gradient_scale,
    D: gl.constexpr, E: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, GROUPS: gl.constexpr,
    CAPPED: gl.constexpr, DK: gl.constexpr, DV: gl.constexpr,
) -> None:  # fmt: skip
    """dk and dv of 64 * GROUPS keys of one key head, from 1 / splits of its query heads.

    Grid (key tiles * key heads * splits * batch); `heads` counts a key head `splits` times. All as
    in `backward_dkdv` and `gathered_forward`; keys that no query sees get zeros.
    """
    tile, head = tile_and_head(tiles, all_heads, section)
    first_key, stop, entries, piece = tile_of(tiles_ptr, tile)
    zero = tile * 0
    batch = head // heads
    row_side = (batch, zero, M)
    packed_head = head // splits  # of all batch entries
    head = head % heads
    key_head = head // splits
    part = head % splits
    each = group // splits
    dtype: gl.constexpr = q_desc.dtype
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    line: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)
    stored: gl.constexpr = lse_desc is None
    k_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_D], layout)
    v_slots = k_slots  # a stand-in
    if DK:
        v_slots = gl.allocate_shared_memory(dtype, [GROUPS, 64, BLOCK_E], layout)
    keys_full = barriers(1, 1)
    queries = new_pipe(dtype, STAGES, BLOCK_M, BLOCK_D, GROUPS, stored)
    douts = new_pipe(dtype, STAGES, BLOCK_M, BLOCK_E, GROUPS, stored)
    lses = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_M], line)
    deltas = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_M], line)
    key_side = (batch, zero, stop)
    split = part.to(gl.int64)
    own_dk_ptr = matrix_of(key_side, key_head, own_dk_ptr, own_dk_strides) + split * own_dk_split
    own_dv_ptr = matrix_of(key_side, key_head, own_dv_ptr, own_dv_strides) + split * own_dv_split
    landed_dk_ptr = (
        matrix_of(key_side, key_head, landed_dk_ptr, landed_dk_strides) + split * landed_dk_split
    )
    landed_dv_ptr = (
        matrix_of(key_side, key_head, landed_dv_ptr, landed_dv_strides) + split * landed_dv_split
    )
    own_dtype: gl.constexpr = own_dk_ptr.dtype.element_ty
    landed_dtype: gl.constexpr = landed_dk_ptr.dtype.element_ty
    # addresses, because the two may differ in dtype, and one of them in registers is enough
    is_own = piece == 0
    into = (
        gl.where(is_own, own_dk_ptr.to(gl.int64), landed_dk_ptr.to(gl.int64)),
        gl.where(is_own, own_dv_ptr.to(gl.int64), landed_dv_ptr.to(gl.int64)),
        gl.where(is_own, own_dk_strides[1], landed_dk_strides[1]),
        gl.where(is_own, own_dv_strides[1], landed_dv_strides[1]),
    )
    given = (
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, into, piece,
        first_key, stop, each, entries_ptr, entries, words_ptr, scale, cap, gradient_scale,
    )  # fmt: skip
    fetch = (
        dout_desc, q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc,
        lse_desc, delta_desc, lse_ptr, delta_ptr, lse_strides, delta_strides,
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, row_side, piece, packed_head,
        key_head * group + part * each, each, first_key, stop, entries_ptr, entries, words_ptr,
        head_groups, heads_each,
    )  # fmt: skip
    gl.static_assert(GROUPS == 2)
    gl.warp_specialize(
        [
            (_consume, (
                given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, DK, DV,
                own_dtype, landed_dtype, 0,
            )),
            (_consume, (
                given, D, E, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, CAPPED, DK, DV,
                own_dtype, landed_dtype, 1,
            )),
            (_produce, (fetch, BLOCK_D, BLOCK_E, BLOCK_M, STAGES, GROUPS, DK)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip


@gluon.jit
def _produce(
    fetch, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr, BLOCK_M: gl.constexpr,
    STAGES: gl.constexpr, GROUPS: gl.constexpr, DK: gl.constexpr,
):  # fmt: skip
    """Brings the keys and values when they are there, then tile after tile of rows."""
    (
        dout_desc, q_desc, own_k_desc, own_v_desc, landed_k_desc, landed_v_desc,
        lse_desc, delta_desc, lse_ptr, delta_ptr, lse_strides, delta_strides,
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, row_side, piece, packed_head,
        first_head, each, first_key, stop, entries_ptr, entries, words_ptr,
        head_groups, heads_each,
    ) = fetch  # fmt: skip
    full = keys_full.index(0)
    width: gl.constexpr = BLOCK_D + BLOCK_E if DK else BLOCK_D
    mbarrier.expect(full, GROUPS * 64 * width * 2)
    zero = first_key * 0
    side = (zero, first_key, stop - first_key)
    if piece == 0:
        for part in gl.static_range(GROUPS):
            bring(own_k_desc, side, part * 64, packed_head, full, k_slots.index(part))
            if DK:
                bring(own_v_desc, side, part * 64, packed_head, full, v_slots.index(part))
    else:
        if words_ptr is not None:
            await_piece(words_ptr, piece, packed_head // heads_each, head_groups)
        for part in gl.static_range(GROUPS):
            bring(landed_k_desc, side, part * 64, packed_head, full, k_slots.index(part))
            if DK:
                bring(landed_v_desc, side, part * 64, packed_head, full, v_slots.index(part))
    number = zero
    for entry in range(entries[0], entries[1]):
        _, visit, where = visit_of(entries_ptr, entry)
        rows = (row_side[0], visit[1], visit[2])
        count = each * (where[2] + where[3])
        for i in range(count):
            head, first_row = nth_of_heads(i, each, where, BLOCK_M)
            head += first_head
            lse, delta = 0, 0
            if lse_desc is None:  # asked for before there is room for them: they take long to come
                lse = numbers(lse_ptr, lse_strides, rows, head, first_row, BLOCK_M)
                delta = numbers(delta_ptr, delta_strides, rows, head, first_row, BLOCK_M)
            row = visit[1] + first_row
            send_with_vector(
                queries, lses, number + i, q_desc, row_side, row, head, lse_desc, lse,
                STAGES, BLOCK_M, BLOCK_D,
            )  # fmt: skip
            send_with_vector(
                douts, deltas, number + i, dout_desc, row_side, row, head, delta_desc, delta,
                STAGES, BLOCK_M, BLOCK_E,
            )  # fmt: skip
        number += count


@gluon.jit
def _consume(
    given, D: gl.constexpr, E: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_E: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, CAPPED: gl.constexpr,
    DK: gl.constexpr, DV: gl.constexpr, OWN: gl.constexpr, LANDED: gl.constexpr,
    PART: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the PART-th 64 of the keys."""
    (
        k_slots, v_slots, keys_full, queries, douts, lses, deltas, into, piece,
        first_key, stop, each, entries_ptr, entries, words_ptr, scale, cap, gradient_scale,
    ) = given  # fmt: skip
    dk_address, dv_address, dk_stride, dv_stride = into
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    k_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_D, 16])
    v_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_E, 16])
    first_key += PART * 64
    keys = first_key + gl.arange(0, 64, gl.SliceLayout(1, s_layout))
    dk = gl.zeros([64, BLOCK_D], gl.float32, k_layout)
    dv = gl.zeros([64, BLOCK_E], gl.float32, v_layout)
    mbarrier.wait(keys_full.index(0), 0)
    k = k_slots.index(PART)
    v = v_slots.index(PART)
    number = first_key * 0  # of the tiles of earlier entries
    for entry in range(entries[0], entries[1]):
        length, low, high, where = mask_of(entries_ptr, entry)
        edges = each * where[3]
        count = edges + each * where[2]
        for i in range(edges):
            _, first_row = nth_of_heads(i, each, where, BLOCK_M)
            dk, dv = step(
                number + i, dk, dv, k, v, queries, douts, lses, deltas, keys, first_row, length,
                low, high, scale, cap, BLOCK_M, STAGES, CAPPED, DK, DV,
                s_layout, k_layout, v_layout, EDGE=True,
            )  # fmt: skip
        for i in range(edges, count):
            dk, dv = step(
                number + i, dk, dv, k, v, queries, douts, lses, deltas, keys, 0, length,
                low, high, scale, cap, BLOCK_M, STAGES, CAPPED, DK, DV,
                s_layout, k_layout, v_layout, EDGE=False,
            )  # fmt: skip
        number += count
    if words_ptr is not None:
        lost = gl.where(given_up(words_ptr), float("nan"), 0.0)
        dk += lost
        dv += lost
    if DK:
        dk *= gradient_scale
        _put(dk_address, dk_stride, piece, dk, first_key, stop, D, BLOCK_D, k_layout, OWN, LANDED)
    if DV:
        _put(dv_address, dv_stride, piece, dv, first_key, stop, E, BLOCK_E, v_layout, OWN, LANDED)


@gluon.jit
def _put(
    address, stride, piece, share, first_key, stop, WIDTH: gl.constexpr, BLOCK: gl.constexpr,
    LAYOUT: gl.constexpr, OWN: gl.constexpr, LANDED: gl.constexpr,
):  # fmt: skip
    """`put`, in the dtype of own gradients, or in that of those that go home."""
    if OWN == LANDED or piece == 0:
        ptr = address.to(gl.pointer_type(OWN))
        put(ptr, stride, share, first_key, stop, WIDTH, BLOCK, LAYOUT, False)
    else:
        other = address.to(gl.pointer_type(LANDED))
        put(other, stride, share, first_key, stop, WIDTH, BLOCK, LAYOUT, False)
