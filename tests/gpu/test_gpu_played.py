"""Two GPUs that play ranks of larger rings, and an all-gather over NCCL."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.distributed as dist

from ring_attn_bench import RingContext, RingOptions
from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.registry import load
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.settle import layout_of
from ring_attn_bench.ring.transports.copy_engine.transport import CopyEngine
from ring_attn_bench.ring.transports.copy_engine.words import SLOTS, Words
from ring_attn_bench.ring.transports.played import played_part, played_plan
from tests.distributed.pool import RankPool, Ring
from tests.distributed.truth import PREFIXES, Case, attend, faults

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),
]

LIMIT = 200.0  # of a call: every rank compiles what is new in it
TOKENS, HEADS, KEY_HEADS, DIM = 512, 4, 2, 64
PASSES = 5  # more than there are slots


@pytest.fixture(scope="module")
def ranks():
    pool = RankPool(2, "nccl")
    yield pool
    pool.close()


def played(ring: Ring, partition: str, world_size: int, options: RingOptions, playing) -> list[str]:
    """What is wrong after some passes, forward and backward."""
    backend, mask = load("triton"), Mask.from_window_size(True, (-1, -1))
    layout = layout_of(partition, world_size, TOKENS, mask, options)
    found = plans(layout, abilities(backend, alibi=False))
    plan = played_plan(*(found[playing[at]] for at in (ring.rank, 1 - ring.rank)))
    job = Job(plan, backend, Score(DIM**-0.5), torch.float32)
    device, wrong = torch.device("cuda", ring.rank), []
    q, k, v, dout = (
        torch.randn(1, TOKENS, heads, DIM, device=device, dtype=torch.bfloat16)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    )
    with RingContext(ring.group, options) as context:
        transport = context.played(played_part(ring.rank, playing, world_size))
        for _ in range(PASSES):
            out, lse = passes.forward(job, transport, q, Keys(k, v))
            delta = (dout.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
            rows = Rows(q, dout, out, lse, delta)
            results = out, lse, *passes.backward(job, transport, rows, Keys(k, v))
        names = ("out", "lse", "dq", "dk", "dv")
        wrong += [n for n, x in zip(names, results, strict=True) if not bool(x.isfinite().all())]
        torch.cuda.synchronize()
        dist.barrier()
        if isinstance(transport, CopyEngine):
            wrong += words_left(transport, world_size)
            transport.close()
    return wrong


def words_left(transport: CopyEngine, world_size: int) -> list[str]:
    """Words that are not what they were, but for turns, which may have been given back since."""
    words = Words(world_size)
    now = transport._table.memory[: words.bytes].view(torch.int32).tolist()
    turns = range(2 * SLOTS * world_size, 3 * SLOTS * world_size)
    pairs = enumerate(zip(now, words.first(), strict=True))
    return [f"word {at} is {x}, not {y}" for at, (x, y) in pairs if x != y and at not in turns]


@pytest.mark.parametrize(("transport", "schedule"), [
    ("p2p", "steps"), ("p2p", "gather"), ("p2p", "one_launch"),
    ("copy_engine", "steps"), ("copy_engine", "one_launch"),
])  # fmt: skip
@pytest.mark.parametrize("world_size", [4, 8, 16])
def test_passes_of_a_played_ring_end_and_leave_every_word_as_it_was(
    ranks, world_size, transport, schedule
):
    options = RingOptions(transport, schedule=schedule)
    for partition, playing in product(PREFIXES, ((0, world_size - 1), (0, 0))):
        found = ranks.run(played, partition, world_size, options, playing, limit=LIMIT)
        assert found == [[], []], (partition, playing)


def gathered(ring: Ring, case: Case, options: RingOptions):
    with RingContext(ring.group, options) as context:
        return attend(ring, case, context)


@pytest.mark.parametrize("gradients", ["float32", "input"])
@pytest.mark.parametrize("schedule", ["gather", "one_launch"])
@pytest.mark.parametrize("partition", PREFIXES)
def test_an_all_gather_is_right(ranks, partition, schedule, gradients):
    options = RingOptions("all_gather", schedule=schedule, gradients=gradients)
    for causal in (True, False):
        case = Case(2, partition, 1024, heads=4, key_heads=2, dim=64, dtype=torch.bfloat16,
                    backend="triton", causal=causal, device="cuda")  # fmt: skip
        assert faults(case, ranks.run(gathered, case, options, limit=LIMIT)) == []
