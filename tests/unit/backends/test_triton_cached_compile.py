"""The kernels over a cache, compiled without a GPU: what they need and what they use."""

from dataclasses import dataclass, replace

import pytest
import torch

from ring_attn_bench.contract.cache import Appended, Cache, CachedCall
from ring_attn_bench.plan.problem import Mask, Score

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("nothing compiles where Triton interprets", allow_module_level=True)

from ring_attn_backends.triton.cached import latent  # noqa: E402
from ring_attn_backends.triton.cached.launch import (  # noqa: E402
    append_launch,
    attend_launch,
    merge_launch,
)
from ring_attn_backends.triton.cached.table import KEYS, SMALL_PAGES, splits_for  # noqa: E402

from tests.unit.backends.test_triton_compile import (  # noqa: E402 - needs Triton
    SHARED_MEMORY,
    assert_fits,
    compiled,
    source,
)

BATCH, ROOM, HEADS, KEY_HEADS = 2, 4096, 32, 8
CAPABILITIES = [
    pytest.param(80, marks=pytest.mark.full), 90, pytest.param(100, marks=pytest.mark.full)
]  # fmt: skip
RARE = {(4, 64), (4, 256)}
SPILL = 64
"""Bytes of a thread: what the place of each token in a page takes beside a tile of queries."""


CAUSAL = Mask(True)


@dataclass(frozen=True)
class Shape:
    """Queries, and how they are called; page: tokens of one."""

    queries: int = 1
    page: int | None = None
    packed: bool = False
    mask: Mask = CAUSAL
    softcap: float = 0.0
    alibi: bool = False
    sink: bool = False
    batch: int = BATCH


DECODE = Shape()
MANY = Shape(batch=64)
"""Programs of one query: 512, where two of a multiprocessor are 264."""
SHAPES = {
    "decoding": DECODE,
    "pages of 16": Shape(page=16),
    "pages of 256": Shape(page=256),
    "64 queries": Shape(64),
    "64 queries, pages of 16": Shape(64, 16),
    "packed, in pages": Shape(128, 16, packed=True),
    "window, softcap and ALiBi": Shape(mask=Mask(True, 100), softcap=30.0, alibi=True),
    "64 queries, sink": Shape(64, sink=True),
}


def meta(*shape, dtype=torch.int32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def cache_of(shape, dim, dtype):
    if shape.page is None:
        k = meta(shape.batch, ROOM, KEY_HEADS, dim, dtype=dtype)
        return Cache(k, torch.empty_like(k), meta(shape.batch))
    k = meta(600, shape.page, KEY_HEADS, dim, dtype=dtype)
    table = meta(shape.batch, ROOM // shape.page)
    return Cache(k, torch.empty_like(k), meta(shape.batch), table)


def launched(shape, dim, dtype):
    """The launch that the backend would make, of tensors without memory."""
    batch, queries = (1, 200) if shape.packed else (shape.batch, shape.queries)
    q = meta(batch, queries, HEADS, dim, dtype=dtype)
    lse = meta(batch, HEADS, queries, dtype=torch.float32)
    slopes = meta(HEADS, dtype=torch.float32) if shape.alibi else None
    score = Score(dim**-0.5, shape.softcap, slopes)
    sink = meta(HEADS, dtype=dtype) if shape.sink else None
    call = CachedCall(q, cache_of(shape, dim, dtype), shape.mask, score, sink=sink)
    if shape.packed:
        call = call._replace(starts=meta(BATCH + 1), longest=shape.queries)
    return attend_launch(call, torch.empty_like(q), lse)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("size", "dim"),
    [pytest.param(*key, marks=[pytest.mark.full] * (key in RARE)) for key in KEYS],
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_tiling_fits_and_loads_ahead(shape, size, dim, capability, tmp_path):
    dtype = torch.bfloat16 if size == 2 else torch.float32
    heavy = shape.alibi or shape.queries > 1
    found = assert_fits(launched(shape, dim, dtype), capability, tmp_path, 200 if heavy else SPILL)

    assert "cp.async" in found.ptx, "the loads are not pipelined"
    ahead = KEYS[size, dim][2] - 1
    assert found.shared >= ahead * KEYS[size, dim][0] * 2 * dim * size, "or not all of them"
    if size == 4:
        assert "tf32" not in found.ptx


@pytest.mark.parametrize("page", [None, 64, 256])
def test_of_programs_that_load_one_tile_ahead_a_multiprocessor_has_room_for_four(page, tmp_path):
    """Where they are many that is one turn and not two: `table._more_are_faster`."""
    launch = launched(replace(MANY, page=page), 128, torch.bfloat16)
    config = launch.config
    found = assert_fits(launch, 90, tmp_path, SPILL)

    assert config.stages == 2
    assert 4 * found.registers * 32 * config.warps <= 65536
    assert 4 * found.shared <= SHARED_MEMORY[90]


def test_of_programs_over_small_pages_there_is_room_for_four_that_load_two_tiles_ahead(tmp_path):
    launch = launched(replace(MANY, page=16), 128, torch.bfloat16)
    config = launch.config
    found = assert_fits(launch, 90, tmp_path, SPILL)

    assert (config.keys, config.warps, config.stages) == SMALL_PAGES[2, 128]
    assert 4 * found.registers * 32 * config.warps <= 65536
    assert 4 * found.shared <= SHARED_MEMORY[90]


def test_small_pages_are_nothing_special_to_few_programs_or_to_many_rows():
    few = launched(Shape(page=16), 128, torch.bfloat16).config
    tall = launched(replace(MANY, page=16, queries=64), 128, torch.bfloat16).config

    assert (few.keys, few.warps, few.stages) == KEYS[2, 128]
    assert tall.keys == KEYS[2, 128][0]


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_merging_and_appending_compile(capability, tmp_path):
    q = meta(BATCH, 1, HEADS, 128, dtype=torch.bfloat16)
    new = meta(BATCH, 1, KEY_HEADS, 128, dtype=torch.bfloat16)
    angles = meta(ROOM, 32, dtype=torch.bfloat16)
    (merging,) = launched(DECODE, 128, torch.bfloat16).after
    shares, of_lse = (
        meta(3 * BATCH, *n, dtype=torch.float32) for n in ((128, HEADS, 128), (HEADS, 128))
    )
    out, lse = q.expand(BATCH, 128, HEADS, 128), of_lse[:BATCH]
    launches = [merging, merge_launch(shares, of_lse, out, lse, None, by_head=True)]
    for page in (None, 16):
        cache = cache_of(Shape(page=page), 128, torch.bfloat16)
        for interleaved in (True, False):
            rotating = Appended(new, new, angles, angles, interleaved)
            launches.append(append_launch(q, torch.empty_like(q), rotating, cache))
        launches.append(append_launch(q, None, Appended(new, new), cache))

    for launch in launches:
        found = compiled(source(launch.kernel, launch.arguments), capability, tmp_path)
        assert found.spilled == 0


def test_any_number_of_documents_and_of_their_tiles_has_room_in_the_grid():
    documents, longest, queries = 70_000, 2**20, 2**21
    q = meta(1, queries, HEADS, 128, dtype=torch.bfloat16)
    k = meta(600, 16, KEY_HEADS, 128, dtype=torch.bfloat16)
    cache = Cache(k, torch.empty_like(k), meta(documents), meta(documents, 4))
    call = CachedCall(
        q, cache, CAUSAL, Score(1.0), starts=meta(documents + 1), longest=longest
    )  # fmt: skip

    grid = attend_launch(call, torch.empty_like(q), meta(1, HEADS, queries)).grid

    assert max(grid[1:]) < 2**16
    assert grid[0] >= documents * longest * (HEADS // KEY_HEADS) // 64


@pytest.mark.parametrize(
    ("programs", "splits"),
    [
        (8, 33),  # one entry of 8 key heads: all of 264 places in one turn
        (64, 4),
        (256, 1),
        (192, 2),  # one each would leave a quarter of the places idle
        (320, 1),
        (512, 1),
        (10_000, 1),
    ],
)
def test_as_many_programs_share_keys_as_have_room_at_a_time(programs, splits):
    q = meta(1, 1, 1, 128, dtype=torch.bfloat16)

    assert splits_for(programs, q) == splits


@pytest.mark.parametrize("page", [None, 64])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(each, marks=[pytest.mark.full] * (each.keys == 32 or each.stages == 2))
        if each.rows < 64
        else each
        for each in latent.CANDIDATES
    ],
    ids=str,
)
def test_values_that_are_columns_of_wide_keys_are_loaded_once(config, page, tmp_path):
    rows = (BATCH, ROOM) if page is None else (2 * BATCH * ROOM // page, page)
    k = meta(*rows, 1, 576, dtype=torch.bfloat16)
    v = meta(*rows, 1, 512, dtype=torch.bfloat16).as_strided((*rows, 1, 512), k.stride())
    table = None if page is None else meta(BATCH, ROOM // page)
    q = meta(BATCH, 1, config.rows, 576, dtype=torch.bfloat16)
    call = CachedCall(q, Cache(k, v, meta(BATCH), table), CAUSAL, Score(576**-0.5))
    lse = meta(BATCH, config.rows, 1, dtype=torch.float32)
    launch = attend_launch(call, torch.empty_like(q[..., :512]), lse, config=config)
    found = assert_fits(launch, 90, tmp_path, SPILL)

    assert ("wgmma" in found.ptx) is (config.rows == 64)
    assert found.shared >= (config.stages - 1) * config.keys * 576 * 2, "loaded ahead"
    assert found.shared < (config.stages + 1.5) * 64 * 576 * 2, "and no v beside k"
