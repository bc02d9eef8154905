"""On a GPU: every backend in a ring, the fused merge, and NCCL between GPUs."""

import os
import subprocess
import sys

import pytest
import torch

from ring_attn_bench import registry
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.merge import merge
from ring_attn_bench.ring.options import RingOptions

# other people's kernels may warn of what they like
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("backend", registry.backends())
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("world_size", [1, 3, 8])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_loopback_ring_is_right(backend, partition, world_size, causal, dtype):
    case = Case(
        batch=2, seqlen_total=world_size * 330, world_size=world_size, heads_q=6, heads_kv=2,
        head_dim=128, dtype=dtype, causal=causal,
    )  # fmt: skip
    contestant = Contestant(
        backend=backend, partition=partition, options=RingOptions(), played="loopback"
    )
    assert not wrong(contestant, case)


@pytest.mark.parametrize("backend", ["triton", "cute"])
@pytest.mark.parametrize(
    ("partition", "world_size", "head_dim"),
    [("zigzag", 4, 128), ("contiguous", 3, 64), ("striped", 2, 128)],
)
@pytest.mark.parametrize("deterministic", [False, True])
def test_one_launch_of_a_loopback_ring_is_right_where_a_kernel_may_add_to_dq(
    backend, partition, world_size, head_dim, deterministic
):
    """Tiles enough for it: 16,384 keys of 4 heads."""
    case = Case(
        batch=1, seqlen_total=16384 // world_size * world_size, world_size=world_size,
        heads_q=8, heads_kv=4, head_dim=head_dim, dtype="bfloat16", deterministic=deterministic,
    )  # fmt: skip
    contestant = Contestant(
        backend=backend, partition=partition, options=RingOptions(schedule="one_launch"),
        played="loopback",
    )  # fmt: skip
    assert not wrong(contestant, case)


def wrong(contestant, case):
    """Results of a loopback ring that are not right, by name; skips what is refused."""
    world = case.world_size
    place = WorkerPlace(0, 1, torch.device("cuda"), tuple(range(world)), world)
    request = Prepare(case=case, contestant=contestant, directions=tuple(Direction), seed=1)
    try:
        prepared = prepare(request, place, Contexts(place))
    except Refused as refusal:
        pytest.skip(str(refusal))
    accuracy = prepared.judge(Check(), seed=1)

    return {
        name: error
        for found in accuracy.values()
        for name, error in found.tensors.items()
        if not error.is_right
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("to_target", [False, True])
def test_the_fused_merge_agrees_with_float64(dtype, to_target):
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device="cuda")

    acc, lse_acc = normal(2, 333, 6, 96), normal(2, 6, 333) * 3
    block, lse = normal(2, 333, 6, 96).to(dtype), normal(2, 6, 333) * 3
    lse_acc[:, :, 5] = lse[:, :, 7] = float("-inf")
    exact = [acc.double(), lse_acc.double(), block.double(), lse.double()]
    merge(*exact, None)
    target = torch.full_like(block, float("nan")) if to_target else None

    merge(acc, lse_acc, block, lse, target)

    result = acc if target is None else target
    ulp = torch.finfo(result.dtype).eps
    assert (result.double() - exact[0]).abs().max() <= 4 * ulp * exact[0].abs().max()
    assert torch.allclose(lse_acc.double(), exact[1], rtol=1e-6, atol=1e-6)


def test_the_fused_merge_gives_the_same_bits_every_time():
    acc = torch.randn(1, 8192, 32, 128, device="cuda")
    lse_acc = torch.randn(1, 32, 8192, device="cuda")
    block, lse = torch.randn_like(acc).bfloat16(), torch.randn_like(lse_acc)
    weight = torch.sigmoid(lse - lse_acc).transpose(1, 2)[..., None]
    exact = torch.lerp(acc, block.float(), weight)

    for _ in range(100):
        merged, merged_lse = acc.clone(), lse_acc.clone()
        merge(merged, merged_lse, block, lse, None)
        assert (merged - exact).abs().max() < 1e-5
        assert (merged_lse - torch.logaddexp(lse, lse_acc)).abs().max() < 1e-5


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.timeout(280)
def test_a_ring_over_nccl_is_right_on_every_backend_and_partition(tmp_path):
    ranks = min(4, torch.cuda.device_count())
    case = f"b1_s{1024 * ranks}_w{ranks}_*"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"),
        *("-m", "ring_attn_bench", "check", "--suite", "hopper", "--case", case),
        *("--out", str(tmp_path / "run")),
    ]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 failures" in done.stdout


@pytest.mark.timeout(280)
def test_a_context_may_be_the_first_to_use_a_gpu():
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *("-m", "tests.gpu.first_use"),
    ]
    both_on_it = {**os.environ, "TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1"}

    done = subprocess.run(
        command, env=both_on_it, capture_output=True, text=True, timeout=240, check=False
    )

    assert done.returncode == 0, done.stderr[-3000:]
