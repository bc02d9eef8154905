"""The compiled CuTe launch over gathered keys: what waits, and what TMA is told of areas."""

import shutil

import pytest
from ring_attn_backends.cute import build, table

from tests.launched_on_host import descriptors
from tests.ptx import reached

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

ONE = table.Build(table.Config(64, 64, 2, 2), "bfloat16", "bfloat16", kernel="gathered.forward")
OF_KEYS = table.Build(
    table.Config(64, 32, 2, 1), "bfloat16", "float32",
    kernel="gathered.backward_dkdv", away="bfloat16",
)  # fmt: skip
OF_ROWS = table.Build(
    table.Config(64, 64, 2, 1), "bfloat16", "bfloat16", kernel="gathered.backward_dq"
)
ACQUIRE, FENCE = "ld.acquire.sys.global.b32", "fence.proxy.async.global"
Q, OWN_K, OWN_V, LANDED_K, LANDED_V = (0x10000 * (i + 1) for i in range(5))
FAR, ANY = 2**30, 2**31 - 2**16


@pytest.mark.parametrize(
    ("one", "areas"),
    [
        (ONE, 8),  # k and v of a visit's first tile, of others, v of the last; two areas
        (OF_KEYS, 4),  # k and v of a program; two areas
        (OF_ROWS, 4),  # k and v of a visit's tiles; two areas
    ],
    ids=str,
)
def test_the_fence_is_behind_an_acquiring_read_and_stands_there_once(one, areas, tmp_path):
    build.compiled(one, f"--keep-ptx --dump-dir={tmp_path}")
    (ptx,) = tmp_path.glob("*.ptx")
    lines = ptx.read_text().splitlines()
    fences = {i for i, line in enumerate(lines) if FENCE in line}
    loads = {i for i, line in enumerate(lines) if "cp.async.bulk.tensor.5d" in line}

    assert len(fences) == 1
    assert fences <= reached(lines)
    assert not fences & reached(lines, ACQUIRE)
    assert len(loads) == areas
    at_once = loads & reached(lines, FENCE, ACQUIRE)
    # own keys are never waited for; that landed ones are is played by threads, and where a program
    # has keys of one piece alone the code shows it
    assert len(at_once) == areas // 2 if one is OF_KEYS else at_once


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to link a runtime of our own with")
def test_tma_is_told_areas_in_which_tokens_from_any_stop_on_are_outside(tmp_path):
    """The launch's own stores, read back as those of the plain forward lie, which GPUs take."""
    strides = [[51200, 512, 64]] + [[51200, 256, 64]] * 2 + [[0, 320, 72]] * 2 + [[51200, 512, 64]]
    sizes = [1, 100, 8, 4, 1, 2, 1]  # batch, M, heads, key heads, section, tiles, groups
    addresses = [Q, OWN_K, OWN_V, LANDED_K, LANDED_V, *range(2**20, 6 * 2**20, 2**20)]
    numbers = [*addresses, *(x for each in strides for x in each), 800, 100, *sizes, 1.0, 0.0, 0]
    told = descriptors(ONE, numbers, range(0, 10, 2), tmp_path)  # what each counts in lies between

    assert set(told) == {Q, OWN_K, OWN_V, LANDED_K, LANDED_V}
    for address, token, head in (
        (OWN_K, 256, 64), (OWN_V, 256, 64), (LANDED_K, 320, 72), (LANDED_V, 320, 72)
    ):  # fmt: skip
        line = told[address]
        assert (line[2] >> 4) % 16 == 5 - 1
        # strides in 16 bytes: of a token, a head, a stop and far; 32 bits each and then 4 more
        far = (2**35 - 2 * token) // 16
        assert line[3:7] == [token // 8, head // 8, token // 8, far % 2**32]
        assert (line[7], far >> 32) == (0, 0)
        assert [n + 1 for n in line[8:13]] == [64, FAR, 4, ANY, ANY]
        assert line[13] >> 24 == 64 - 1  # columns of a tile
        assert line[14] == 64 - 1  # and its tokens
    assert (told[Q][2] >> 4) % 16 == 4 - 1
    assert [n + 1 for n in told[Q][8:12]] == [64, 100, 8, 1]
