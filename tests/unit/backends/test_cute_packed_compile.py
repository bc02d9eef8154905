"""The compiled CuTe launches over packed documents: what TMA is told, and who ends at once."""

import shutil

import pytest
from ring_attn_backends.cute import build, table

from tests.launched_on_host import descriptors
from tests.ptx import reached

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

FORWARD, OF_KEYS, OF_ROWS = ALL = [
    table.Build(config, "bfloat16", "bfloat16", kernel=f"packed.{name}")
    for name, config in (
        ("forward", table.Config(64, 64, 2, 2)),
        ("backward_dkdv", table.Config(64, 32, 2, 1)),
        ("backward_dq", table.Config(64, 64, 2, 1)),
    )
]
FAR, ANY = 2**30, 2**31 - 2**16
TOKEN, HEAD, KEY_TOKEN, KEY_HEAD = 512, 64, 320, 72


def tensors_of(one):
    """Strides of each: of batch entries 0, of tokens and heads; of lines 0 and of heads."""
    rows, keys, line = [0, TOKEN, HEAD], [0, KEY_TOKEN, KEY_HEAD], [0, 100]
    if one is FORWARD:
        return [rows, keys, keys, rows, line]
    return [rows, keys, keys, rows, line, line, *([keys, keys] if one is OF_KEYS else [rows])]


@pytest.mark.parametrize("one", ALL, ids=str)
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to link a runtime of our own with")
def test_tma_is_told_documents_in_which_tokens_from_any_stop_on_are_outside(one, tmp_path):
    """The launch's own stores, read back as those over gathered keys are."""
    strides = tensors_of(one)
    addresses = [0x10000 * (i + 1) for i in range(len(strides) + 2)]  # and both starts
    sizes = [3, 100, 200, 8, 4, 1, 4]  # documents, T, S, heads, key heads, section, tiles
    factors = [1.0, 0.0] if one is FORWARD else [1.0, 0.0, 1.0]
    numbers = [*addresses, *(x for each in strides for x in each), *sizes, -5, 9, *factors, 0]
    read = 3 if one is FORWARD else 4  # q, k and v, and dout
    told = descriptors(one, numbers, range(read), tmp_path)
    own, block = one.config.own, one.config.block

    assert set(told) == set(addresses[:read])
    for number, address in enumerate(addresses[:read]):
        of_keys = number in (1, 2)
        token, head, heads = (KEY_TOKEN, KEY_HEAD, 4) if of_keys else (TOKEN, HEAD, 8)
        line = told[address]
        assert (line[2] >> 4) % 16 == 5 - 1
        # strides in 16 bytes: of a token, a head, a stop and far; 32 bits each and then 4 more
        far = (2**35 - 2 * token) // 16
        assert line[3:7] == [token // 8, head // 8, token // 8, far % 2**32]
        assert (line[7], far >> 32) == (0, 0)
        assert [n + 1 for n in line[8:13]] == [64, FAR, heads, ANY, ANY]
        assert line[13] >> 24 == 64 - 1  # columns of a tile
        assert line[14] == (own if of_keys == (one is OF_KEYS) else block) - 1


@pytest.mark.parametrize("one", ALL, ids=str)
def test_a_program_without_a_tile_asks_for_nothing_and_writes_nothing(one, tmp_path):
    build.compiled(one, f"--keep-ptx --dump-dir={tmp_path}")
    (ptx,) = tmp_path.glob("*.ptx")
    lines = ptx.read_text().splitlines()
    tasks = "cp.async.bulk.tensor", "st.global", "wgmma"
    work = {i for i, line in enumerate(lines) if any(task in line for task in tasks)}
    (barrier,) = (i for i, line in enumerate(lines) if "bar.sync \t0;" in line)
    behind = lines[barrier + 1 :]
    at_once = {i + barrier + 1 for i in reached(behind, "setmaxnreg")}

    assert work <= reached(lines)
    assert not work & reached(lines, "bar.sync \t0;"), "before the place was told"
    assert not work & at_once, "before it was asked"
    assert any(lines[i].strip() == "ret;" for i in at_once)
