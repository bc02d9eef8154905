"""The gathered kernels, compiled without a GPU: what they use, and in which order they read."""

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

from ring_attn_backends.triton.plain.gathered import launch, visits  # noqa: E402 - need Triton

from tests.unit.backends.test_triton_compile import (  # noqa: E402
    HEAD_DIMS,
    KERNELS,
    SHARED_MEMORY,
    assert_fits,
)

# What is asked for, and the bytes spilled at most, on sm_80 and sm_90, and on sm_100. Most of it is
# written and read between the loops over tiles, once for each visit.
NARROW = "gradients in the input's dtype"
FEATURES = {
    "waits": ({}, 256, 672),
    "all there": ({"waits": False}, 256, 736),
    NARROW: ({"away": "input"}, 256, 672),
    "softcap": ({"softcap": 30.0}, 512, 672),
    "ALiBi": ({"alibi": True}, 288, 672),
    "dropout": ({"dropout_p": 0.1}, 416, 672),
    "all": ({"softcap": 30.0, "alibi": True, "dropout_p": 0.1}, 544, 704),
}
if triton.__version__.startswith("3.6."):  # backward_dkdv on sm_80
    FEATURES["softcap"] = (FEATURES["softcap"][0], 768, 672)
    FEATURES["all"] = (FEATURES["all"][0], 768, 704)
ACQUIRE = re.compile(r"(?:ld|atom)\.global\S*\.acquire")
ALWAYS = {("waits", head_dim, 90) for head_dim in HEAD_DIMS} | {("all", 128, 90), (NARROW, 64, 90)}
# the loops are those of the kernels in test_triton_compile.py, which every GPU's compiler is asked
# about: of these two kinds are enough elsewhere
ELSEWHERE = [(name, 128, other) for name in ("waits", "all") for other in SHARED_MEMORY]
ASKED = [
    pytest.param(*asked, marks=[] if asked in ALWAYS else [pytest.mark.full])
    for asked in dict.fromkeys([*product(FEATURES, HEAD_DIMS, (90,)), *ELSEWHERE])
]


def launched(
    kernel, head_dim, dtype=torch.bfloat16, *,
    waits=True, softcap=0.0, alibi=False, dropout_p=0.0, tokens=4096, away="float32",
):  # fmt: skip
    """The launch of a rank of four, of tensors without memory.

    away: the dtype of gradients that travel; those of own keys are added up in float32.
    """

    def tensor(*shape, dtype=dtype):
        return torch.empty(*shape, dtype=dtype, device="meta")

    q, lse = tensor(2, tokens, 8, head_dim), tensor(2, 8, tokens, dtype=torch.float32)
    own, landed = (Keys(*(tensor(2, n, 4, head_dim) for _ in "kv")) for n in (tokens, 3 * tokens))
    shards = [PARTITIONS["zigzag"].spans(rank, 4, tokens) for rank in (1, 0, 2, 3)]
    parts = [(i, c) for i, s in enumerate(shards) for c in chunks(s, max(0, i - 1) * tokens)]
    where = gathered(chunks(shards[0]), parts, Band(low=0), join=not (alibi or dropout_p))
    slopes = tensor(8, dtype=torch.float32) if alibi else None
    score = Score(head_dim**-0.5, softcap, slopes, dropout_p, 1)
    keys = Gathering(own, landed, tensor(4, dtype=torch.int32) if waits else None)
    rows = Rows(q, q, q, lse, lse)
    if kernel == "forward":
        return launch.forward_launch(q, keys, q, lse, where, score)
    if kernel == "backward_dq":
        return launch.dq_launch(rows, keys, q, where, score)
    wide = torch.float32
    into = [
        Keys(*(tensor(*x.shape, dtype=dtype if to == "input" else wide) for x in pair))
        for pair, to in ((own, "float32"), (landed, away))
    ]
    return launch.dkdv_launch(rows, keys, *into, where, score, own_first=True)


@pytest.mark.parametrize(("feature", "head_dim", "capability"), ASKED)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_feature_fits_and_multiplies_on_tensor_cores(
    kernel, feature, head_dim, capability, tmp_path
):
    asked, *spills = FEATURES[feature]
    call = launched(kernel, head_dim, **asked)
    found = assert_fits(call, capability, tmp_path, spills[capability == 100])
    instruction = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}[capability]
    assert instruction in found.ptx
    assert re.search(r"cp\.async\.cg\S* .*, 0x10", found.ptx), "tiles are not loaded ahead"


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_feature_has_no_tf32_in_float32(kernel, tmp_path):
    call = launched(kernel, 64, torch.float32, **FEATURES["all"][0])
    found = assert_fits(call, 90, tmp_path, FEATURES["all"][1])
    assert "fma.rn.f32" in found.ptx
    assert "tf32" not in found.ptx


@pytest.mark.parametrize("kernel", KERNELS)
def test_keys_are_loaded_behind_an_acquiring_read_of_system_scope(kernel, tmp_path):
    """And behind the barrier after it: one thread reads the word, for all of the program."""
    call = launched(kernel, 64)
    ptx = assert_fits(call, 90, tmp_path).ptx
    reads = list(ACQUIRE.finditer(ptx))
    assert (
        len(reads) == 4
    )  # of the word, of word 0 and the word while waiting, of word 0 at the end
    assert all(".sys" in read.group() for read in reads)
    for read in reads:
        rest = ptx[read.end() :]
        barrier, load = (
            re.search(x, rest) for x in (r"bar\.sync", r"cp\.async\.cg|ld\.global\.v4")
        )
        assert barrier is not None
        assert load is None or barrier.start() < load.start()
    # what a kernel reads ahead of its first wait are rows; dkdv has only rows in its loops
    keys = "ld.global.v4" if kernel == "backward_dkdv" else "cp.async.cg"
    assert reads[2].end() < ptx.index(keys)
    no_words = assert_fits(launched(kernel, 64, waits=False), 90, tmp_path).ptx
    assert not ACQUIRE.search(no_words)


@pytest.mark.parametrize("kernel", KERNELS)
def test_numbers_that_change_from_call_to_call_are_no_constants(kernel):
    jitted = launched(kernel, 64).kernel
    floats = {"scale", "cap", "gradient_scale", "keep_share"}  # never specialised
    given = {parameter.name: parameter for parameter in jitted.params}
    numbers = {
        name
        for name, parameter in given.items()
        if not parameter.is_constexpr and not name.endswith(("_ptr", "_strides"))
    }
    assert numbers - floats == set(visits.RUN_TIME)
    assert all(given[name].do_not_specialize for name in visits.RUN_TIME)
