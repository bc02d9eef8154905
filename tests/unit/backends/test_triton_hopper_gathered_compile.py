"""The Hopper kernels for gathered keys, compiled without a GPU: what they use, and what waits."""

import re
from itertools import product

import pytest
import torch

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Score

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("nothing compiles where Triton interprets", allow_module_level=True)

from ring_attn_backends.triton.hopper import serves  # noqa: E402 - need Triton
from ring_attn_backends.triton.hopper.gathered import launch  # noqa: E402

from tests.ptx import reached  # noqa: E402
from tests.unit.backends.test_triton_hopper_compile import NAMES, needs  # noqa: E402

if not triton.__version__.startswith(serves.TRITON_VERSIONS):
    pytest.skip("served by the plain kernels", allow_module_level=True)

SPILLED = {"forward": (0, 0, 0), "backward_dq": (8, 8, 8), "backward_dkdv": (48, 80, 80)}
"""Bytes at most, with Triton 3.6 and 3.7, at head dims 64, 128 and 256."""
HEAD_DIMS = (64, 128, 256)
ACQUIRE, FENCE = "ld.acquire.sys.global.b32", "fence.proxy.async.global"
LOAD = re.compile(r"cp\.async\.bulk\.tensor\.\S+ \[%r\d+\], \[(%rd\d+),")
# whether it waits, the dtype, the softcap, and the dtype of gradients that travel
PLAIN = (True, "bfloat16", 0.0, "input")
FEATURES = [PLAIN, (False, *PLAIN[1:]), (True, "float16", 0.0, "input"),
            (True, "bfloat16", 30.0, "input"), (True, "bfloat16", 0.0, "float32"),
            (False, "bfloat16", 0.0, "float32")]  # fmt: skip
ALWAYS = {(kernel, 128, *PLAIN) for kernel in NAMES} | {("forward", 64, *FEATURES[1])}
ASKED = [
    pytest.param(*asked, marks=[] if asked in ALWAYS else [pytest.mark.full])
    for kernel, head_dim, about in product(NAMES, HEAD_DIMS, FEATURES)
    for asked in [(kernel, head_dim, *about)]
    if about[3] == "input" or kernel == "backward_dkdv"
]


def launched(kernel, head_dim, *, waits=True, dtype="bfloat16", softcap=0.0, home="float32",
             away="input", tokens=4096, group=2, splits=1):  # fmt: skip
    """The launch of a rank of four, of tensors without memory.

    home, away: the dtypes of own keys' gradients, and of those that travel.
    """
    given = getattr(torch, dtype)

    def tensor(*shape, to=given):
        return torch.empty(*shape, dtype=given if to == "input" else to, device="meta")

    q, lse = tensor(1, tokens, 4 * group, head_dim), tensor(1, 4 * group, tokens, to=torch.float32)
    own, landed = (Keys(*(tensor(1, n, 4, head_dim) for _ in "kv")) for n in (tokens, 3 * tokens))
    shards = [PARTITIONS["zigzag"].spans(rank, 4, tokens) for rank in (1, 0, 3, 2)]
    parts = [(i, c) for i, s in enumerate(shards) for c in chunks(s, max(0, i - 1) * tokens)]
    where = gathered(chunks(shards[0]), parts, Band(low=0), join=True)
    keys = Gathering(own, landed, tensor(4, to=torch.int32) if waits else None)
    score, rows = Score(head_dim**-0.5, softcap), Rows(q, q, q, lse, lse)
    if kernel == "forward":
        return launch.forward_launch(q, keys, q, lse, where, score)
    if kernel == "backward_dq":
        return launch.dq_launch(rows, keys, q, where, score)
    into = [
        Keys(*(tensor(*x.shape, to=to if to == "input" else getattr(torch, to)) for x in pair))
        for pair, to in ((own, home), (landed, away))
    ]
    return launch.dkdv_launch(rows, keys, *into, where, score, own_first=True, splits=splits)


def parts_of(call):
    """The launch and those after it that are kernels of this folder: dk and dv may be apart."""
    return [call, *(part for part in call.after if part.config)]


def assert_waits(call, ptx):
    """No landed key is read but behind a fence, and that is behind an acquiring read."""
    lines = ptx.splitlines()
    loads = {name: {i for i, line in enumerate(lines) if is_load(line, found)}
             for name, found in descriptors(call, ptx).items()}  # fmt: skip
    fences = {i for i, line in enumerate(lines) if FENCE in line}
    everything, unfenced = reached(lines), reached(lines, FENCE)
    for name in (
        "own_k_desc",
        "landed_k_desc",
        *(["own_v_desc", "landed_v_desc"] if call.arguments.get("DK", True) else []),
    ):
        assert loads[name], name
        assert loads[name] <= everything
        assert bool(loads[name] & unfenced) == name.startswith("own")
    assert fences
    assert not fences & reached(lines, ACQUIRE)


def descriptors(call, ptx):
    """By name, the registers that hold the addresses of TMA's descriptors."""
    names = [
        name
        for name in call.kernel.arg_names
        if name.endswith("_desc") and call.arguments[name] is not None
    ]
    given = re.findall(r"\.param \.align 64 \.b8 (\w+)\[128\]", ptx)
    assert len(given) == len(names)
    held = dict(re.findall(r"mov\.b64\s+(%rd\d+), (\w+_param_\d+);", ptx))
    found = {name: set() for name in names}
    for register, source in re.findall(r"cvta\.param\.u64\s+(%rd\d+), (%rd\d+);", ptx):
        found[names[given.index(held[source])]].add(register)
    return found


def is_load(line, registers):
    load = LOAD.search(line)
    return load is not None and load[1] in registers


@pytest.mark.parametrize(("kernel", "head_dim", "waits", "dtype", "softcap", "away"), ASKED)
def test_it_fits_and_hardly_spills_and_reads_behind_its_words(
    kernel, head_dim, waits, dtype, softcap, away, tmp_path
):
    call = launched(kernel, head_dim, waits=waits, dtype=dtype, softcap=softcap, away=away)
    assert call.kernel.__name__.startswith("gathered")
    for part in parts_of(call):
        spilled, _ = needs(part, tmp_path)
        ptx = (tmp_path / "kernel.ptx").read_text()
        if not softcap:
            assert spilled <= SPILLED[kernel][HEAD_DIMS.index(head_dim)]
        if waits:
            assert_waits(part, ptx)
        else:
            assert ACQUIRE not in ptx
            assert FENCE not in ptx
