"""The CuTe kernel, compiled without a GPU: what it needs, and what the machine code is made of."""

import ctypes
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
import torch
from ring_attn_backends.cute import ahead, build, launch, signatures, table
from ring_attn_backends.cute.arguments import Call, Numbers

from tests.cute_builds import REPRESENTATIVE
from tests.launched_on_host import descriptors
from tests.patience import limit

triton = pytest.importorskip("triton", reason="its package has the disassembler")
cutlass = pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
SHARED_MEMORY = 227 * 1024
"""Bytes that one program may have (CUDA C++ programming guide, table 30)."""
BARRIERS = 1024
"""Bytes of shared memory for barriers, and for what aligns the tiles behind them, at most: of each
pipe of tiles, which begins at a multiple of 1024."""
PIPES = {
    "forward": 3, "backward_dkdv": 4, "backward_dk": 4, "backward_dv": 3, "backward_dq": 4,
    "backward_adding": 6,
}  # fmt: skip


def proposed(width):
    """Kernels and configurations of a head dim that is not in the table yet."""
    forward, backward = table.proposed([width])
    yield from (("forward", config) for config in forward.values())
    yield from ((kernel, config) for (kernel, _), config in backward.items())


CANDIDATES = (
    [
        table.Build(config, "bfloat16", "bfloat16", carried=carried)
        for configs in table.CANDIDATES.values()
        for config in configs
        for carried in ((False,) if config in table.FIRST_ONLY else (False, True))
    ]
    + [
        table.Build(config, "bfloat16", "float32", capped=False, carried=True, kernel=kernel)
        for (kernel, _), configs in table.BACKWARD_CANDIDATES.items()
        for config in configs
    ]
    + [
        table.Build(
            config, "bfloat16", "float32", capped=False, carried=True, kernel="backward_adding"
        )
        for configs in table.ADDS_CANDIDATES.values()
        for config in configs
    ]
    + list(ahead.gathered_builds())
    + [
        table.Build(
            config,
            "bfloat16",
            "bfloat16",
            capped=True,
            kernel=table.GATHERED[kernel],
            away="float32" if kernel in table.OF_KEYS else None,
        )
        for width in table.CANDIDATES
        for kernel, config in proposed(width)
    ]
    + list(ahead.packed_builds(x for configs in table.PACKED_CANDIDATES.values() for x in configs))
)
ENTRY = {2: 168, 3: 128}
"""Registers of a thread before some are given away, by warpgroups that multiply: as README says."""
SMALL = table.Build(table.Config(64, 64, 2, 1), "float16", "float16")
SMALL_BACKWARD = [
    table.Build(table.Config(64, 32, 2, 1), "float16", "float32", kernel=kernel)
    for kernel in ("backward_dkdv", "backward_dq")
] + [
    table.Build(table.Config(64, 64, 2, 1, ahead=False, shown=2), "float16", "float32",
                kernel="backward_adding")
]  # fmt: skip
SMALL_GATHERED = [
    table.Build(table.Config(64, 64, 2, 1), "float16", "float16", kernel="gathered.forward"),
    table.Build(table.Config(64, 32, 2, 1), "float16", "float32",
                kernel="gathered.backward_dkdv", away="float16"),
    table.Build(table.Config(64, 32, 2, 1), "float16", "float16", kernel="gathered.backward_dq"),
]  # fmt: skip
SMALL_PACKED = [
    table.Build(table.Config(64, block, 2, 1), "float16", "float16", kernel=f"packed.{kernel}")
    for kernel, block in (("forward", 64), ("backward_dkdv", 32), ("backward_dq", 32))
]  # fmt: skip


def said_by(tool, *arguments):
    done = subprocess.run(
        [TOOLS / tool, *arguments], check=True, capture_output=True, text=True, timeout=limit(60)
    )
    return done.stdout


def machine_code(one, folder):
    """Registers of a thread, bytes of its stack, and how often each instruction stands there."""
    build.compiled(one, f"--keep-ptx --keep-cubin --dump-dir={folder}")
    (cubin,), (ptx,) = folder.glob("*.cubin"), folder.glob("*.ptx")
    needs = said_by("cuobjdump", "--dump-resource-usage", cubin)
    code = said_by("nvdisasm", "-c", cubin)
    registers, stack = (int(re.search(rf"{x}:(\d+)", needs)[1]) for x in ("REG", "STACK"))
    instructions = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?\s*(\w+)(.*);", code, re.M)
    print(f"{one}: {registers} registers, {stack} B of stack, {one.tile_bytes} B of tiles")
    return registers, stack, instructions, ptx.read_text()


def registers_by_part(instructions):
    """Of the code behind each instruction that gives registers: the last one in it, and how many.

    Bringing and multiplying stand one behind the other.
    """
    starts = [i for i, (name, _) in enumerate(instructions) if name == "USETMAXREG"]
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        given = int(re.findall(r"0x[0-9a-f]+", instructions[start][1])[-1], 16)
        named = (re.findall(r"\bR(\d+)\b", rest) for _, rest in instructions[start:stop])
        yield max(int(x) for each in named for x in each), given


def asked(one):
    """Instructions for products, and the groups that they are, in the code.

    A product of scores has a head dim of parts, one that adds to sums as many as tokens of a tile.
    """
    scores, scores_v, sums = (
        x // 16 for x in (one.config.width, one.config.width_v, one.config.block)
    )
    if one.kernel.endswith("forward"):
        return 3 * (scores + sums), 6  # of the first, of an edge and of a whole tile
    # of an edge and of a whole tile
    if one.kernel.endswith(("backward_dq", "backward_dk")):
        return 2 * (scores + scores_v + sums), 6
    if one.kernel.endswith("backward_dv"):
        return 2 * (scores + sums), 4
    if one.kernel.endswith("backward_adding"):
        # of the first, of an edge and of a whole tile; dq's one tile later, of the last then
        return 3 * (2 * scores + 2 * sums + one.config.own // 16), 15
    return 2 * (scores + scores_v + 2 * sums), 8


def tiles(one):
    """Of all tiles that TMA copies: tokens, columns, and in how many places of the code."""
    config, areas = one.config, 1 + one.kernel.startswith("gathered")
    own, block, width, width_v = config.own, config.block, config.width, config.width_v
    if one.kernel.endswith("forward"):  # k of the first tile, k and v of others, v of the last
        return [(own, width, 1), (block, width, 2 * areas), (block, width_v, 2 * areas)]
    if one.kernel.endswith("backward_dq"):
        of_rows, of_keys = own, block
    else:
        of_rows, of_keys = block, own
    values = [(of_keys, width_v, areas)] * one.has_dk
    return [(of_rows, width, 1), (of_rows, width_v, 1), (of_keys, width, areas), *values]


def copied(one):
    """Instructions for them: 64 columns at a time, or 32 of what 64 do not divide."""
    narrow = one.config.shown > 0 and one.config.width // one.config.split[1] < 64  # of k, for dq
    return narrow + sum(
        places * width // (32 if width % 64 else 64) for _, width, places in tiles(one)
    )


def checked(one, folder):
    registers, stack, instructions, ptx = machine_code(one, folder)
    config, names = one.config, Counter(name for name, _ in instructions)
    products = [rest for name, rest in instructions if name == "HGMMA"]

    assert stack == 0, "spilled"
    assert not {"LDL", "STL"} & set(names), "spilled"
    assert registers * config.threads <= 65536
    # the tile before is let go only after the next has come
    assert config.stages > 1 or not config.ahead
    # each product as one group: where the compiler serialises them, each part of one is a group
    expected, groups = asked(one)
    assert len(products) == expected
    assert sum("gsb0" in rest for rest in products) == groups
    assert names["UTMALDG"] == copied(one)
    adds = one.kernel.endswith("backward_adding")
    assert names["UTMAREDG"] == adds * config.width // 32  # in float32
    # what a warpgroup shows of the first, of an edge and of a whole tile, and stages of the last
    assert ptx.count("fence.proxy.async.shared::cta") == 6 * adds
    assert names["USETMAXREG"] == 2
    assert all(used < given for used, given in registers_by_part(instructions))
    assert registers == ENTRY[config.groups]
    more, fewer = config.registers
    assert 128 * (config.groups * more + fewer) <= 65536
    assert f"setmaxnreg.inc.sync.aligned.u32 \t{more}" in ptx
    pipes = PIPES[one.kernel.rpartition(".")[2]]
    assert one.tile_bytes + pipes * BARRIERS <= SHARED_MEMORY
    # a tile's bytes are announced as they are, even where it is cut off by the end of the tokens
    announced = set(re.findall(r"mov.b32 \s*%r\d+, (\d+);", ptx))
    assert {str(2 * width * n) for n, width, _ in tiles(one)} <= announced


@pytest.mark.parametrize("one", REPRESENTATIVE, ids=str)
def test_a_kernel_spills_nothing_and_keeps_the_tensor_cores_fed(one, tmp_path):
    checked(one, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("one", CANDIDATES, ids=str)
def test_every_candidate_spills_nothing(one, tmp_path):
    checked(one, tmp_path)


def test_a_kept_object_is_found_again_and_replaced_when_anything_it_depends_on_changes(
    tmp_path, monkeypatch
):
    one = REPRESENTATIVE[3]
    (path,) = build.build_all([one], tmp_path)
    written = path.stat().st_mtime_ns

    assert build.build_all([one], tmp_path) == [path]
    assert path.stat().st_mtime_ns == written
    assert [x.name for x in tmp_path.iterdir()] == [path.name], "something was left behind"
    assert callable(build.function(one, tmp_path))
    monkeypatch.setattr(build, "_sources", lambda: "others")
    assert build.name_of(one) != path.name
    every = {build.name_of(other) for other in REPRESENTATIVE}
    assert len(every) == len(REPRESENTATIVE)


@pytest.mark.parametrize(
    "one",
    [REPRESENTATIVE[3], *SMALL_BACKWARD, *SMALL_GATHERED, *SMALL_PACKED],
    ids=str,
)
def test_arguments_lie_where_the_compiler_would_have_put_them(one, tmp_path):
    """Its own packing, read back, beside ours, for numbers that are all different."""
    from cuda.bindings import driver

    signature = signatures.SIGNATURES[one.kernel]
    tensors = tuple(torch.empty(64) for _ in signature.tensors)
    strides = tuple(
        tuple(8 * (3 * i + j + 1) for j in range(n)) for i, n in enumerate(signature.strides)
    )
    integers = iter((2, 3, 5, 7, 11, 13, -17, 19, 23))
    sizes, band = [*(tuple(islice(integers, n)) for n in signature.integers), ()][:2]
    numbers = Numbers(sizes, band, (0.23, 29.0, 0.31)[: signature.factors])
    row = launch.packed(Call(one, tensors, strides, numbers), 41)
    given = (
        *build.pointers(one, tuple(x.data_ptr() for x in tensors)),
        *(tuple(map(cutlass.Int64, each)) for each in strides if each),
        *(tuple(map(cutlass.Int32, each)) for each in (sizes, band) if each),
        *map(cutlass.Float32, numbers.factors),
        driver.CUstream(41),
    )
    theirs, _ = build.function(one, tmp_path).execution_args.generate_execution_args(given, {})
    ours = launch.places(row, one.kernel)
    narrow = sum(signature.integers) + signature.factors
    widths = [8] * (len(tensors) + sum(signature.strides)) + [4] * narrow + [8]

    assert len(theirs) == len(ours) == len(widths)
    for their, our, width in zip(theirs, ours, widths, strict=True):
        place = their.value if isinstance(their, ctypes.c_void_p) else their
        assert ctypes.string_at(place, width) == ctypes.string_at(our, width)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to link a runtime of our own with")
def test_tma_adds_float32_rows_by_row_and_none_behind_the_last(tmp_path):
    """The launch's own stores, read back: 100 rows of 8 heads, tiles of 64 rows by 128 bytes."""
    one = SMALL_BACKWARD[-1]
    rows, keys, dq = [51200, 512, 64], [51200, 256, 64], [60000, 576, 68]
    strides = [rows, keys, keys, rows, [800, 100], [800, 100], dq, keys, keys]
    addresses = [0x10000 * (i + 1) for i in range(len(strides))]
    sizes, band = [1, 100, 200, 8, 4, 1], [-5, 9]
    numbers = [*addresses, *(x for each in strides for x in each), *sizes, *band, 1.0, 0.0, 1.0, 0]
    told = descriptors(one, numbers, range(5), tmp_path)

    assert set(told) == set(addresses[:4] + addresses[6:7])
    line = told[addresses[6]]
    assert line[3:7] == [x * 4 // 16 for x in (576, 68, 60000)] + [0]
    assert [n + 1 for n in line[8:12]] == [64, 100, 8, 1]
    assert (line[13] >> 24, line[14]) == (32 - 1, 64 - 1)
    swizzle = 3 << 13
    assert line[2] & swizzle == told[addresses[0]][2] & swizzle  # as q's, which is of 128 bytes


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc to link a runtime of our own with")
def test_tma_brings_96_columns_in_three_swizzles_of_64_bytes_and_v_by_its_own_head_dim(tmp_path):
    """The launch's own stores: 100 rows of 8 heads, 200 keys of 4, tiles of 64."""
    one = table.Build(table.Config(96, 64, 2, 1, width_v=128), "bfloat16", "bfloat16")
    q, k, v, out = [80000, 800, 96], [90000, 400, 96], [99200, 496, 120], [102400, 1024, 128]
    strides = [q, k, v, out, out, [800, 100]]
    addresses = [0x10000 * (i + 1) for i in range(len(strides))]
    numbers = [*addresses, *(x for each in strides for x in each), 1, 100, 200, 8, 4, 1, -5, 9]
    told = descriptors(one, [*numbers, 1.0, 0.0, 0], range(3), tmp_path)

    assert list(told) == addresses[:3]
    narrow, wide = 2 << 13, 3 << 13  # swizzles of 64 and of 128 bytes
    for address, each, dims, part, swizzle in (
        (addresses[0], q, [96, 100, 8, 1], 32, narrow),
        (addresses[1], k, [96, 200, 4, 1], 32, narrow),
        (addresses[2], v, [128, 200, 4, 1], 64, wide),
    ):
        line = told[address]
        batch, token, head = each
        assert line[3:7] == [x * 2 // 16 for x in (token, head, batch)] + [0]
        assert [n + 1 for n in line[8:12]] == dims
        assert (line[13] >> 24, line[14]) == (part - 1, 64 - 1)
        assert line[2] & 3 << 13 == swizzle


def test_what_two_compile_ahead_at_once_is_whole_and_a_call_finds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "builds", lambda: iter([SMALL]))
    with ThreadPoolExecutor(2) as threads:  # each has a process of its own compile it
        found = list(threads.map(lambda _: list(ahead.compile_all(1, tmp_path)), range(2)))
    (again,) = ahead.compile_all(1, tmp_path)

    assert [one.name for (one,) in found] == [str(SMALL)] * 2
    assert again.seconds is None
    assert [x.name for x in tmp_path.iterdir()] == [build.name_of(SMALL)]
    monkeypatch.setattr(build, "_compile_apart", None)
    monkeypatch.setattr(build, "compiled", None)
    assert callable(build.function(SMALL, tmp_path))


def test_a_folder_that_cannot_be_written_costs_a_compilation_and_no_call(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")

    assert callable(build.function(SMALL, blocked / "kept"))
