"""The bytes that are predicted from a plan are those that the executor takes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from ring_attn_backends.triton.hopper.splits import shares_bytes

from ring_attn_bench.contract.backend import abilities, accumulating
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan import memory
from ring_attn_bench.plan.memory import KernelMemory, ShardShape
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import Launch, plan
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.ring.settle import layout_of
from ring_attn_bench.ring.transports.copy_engine.sizes import kept_bytes
from tests.unit.ring.live_bytes import (
    Accumulating,
    Gathering,
    Plain,
    Symmetric,
    messages,
    most_bytes,
    nobody_else,
)

MIB = 2**20
STEPS = RingOptions()
SCHEDULES = (
    STEPS,
    RingOptions(slots=1),
    RingOptions(slots=7),
    RingOptions(schedule="grouped", slots="auto"),
    RingOptions(schedule="gather"),
    RingOptions(schedule="gather", landing_tokens=24),
    RingOptions(schedule="one_launch", landing_tokens=48),
    RingOptions(schedule="one_launch"),
    RingOptions(schedule="one_launch", keep_keys=True),
    RingOptions(schedule="steps", keep_keys=True),
    RingOptions(schedule="gather", keep_keys=True),
)
CAUSAL, FULL, WINDOW = Mask(causal=True), Mask(causal=False), Mask(causal=True, window_left=9)


@dataclass(frozen=True)
class Call:
    """What is computed, by how many, and how it travels."""

    world_size: int
    partition: str = "zigzag"
    mask: Mask = CAUSAL
    options: RingOptions = STEPS
    tokens: int = 24
    batch: int = 1
    heads: tuple[int, int] = (4, 2)
    head_dims: tuple[int, int] = (8, 8)
    dtype: torch.dtype = torch.bfloat16
    travels: torch.dtype | None = None
    backend: object = Accumulating(needs_delta=True)

    @property
    def plans(self):
        layout = layout_of(self.partition, self.world_size, self.tokens, self.mask, self.options)
        able = abilities(self.backend, alibi=False)
        return [plan(layout, rank, able) for rank in range(self.world_size)]

    @property
    def sizes(self):
        wide = accumulator_dtype(self.dtype)
        travels = (self.travels or wide).itemsize
        return ShardShape(
            self.batch, *self.heads, *self.head_dims, self.dtype.itemsize, wide.itemsize, travels
        )

    @property
    def kernel(self):
        accumulates = accumulating(self.backend) is not None
        return KernelMemory(accumulates, self.backend.needs_delta)

    def taken(self, one, *, symmetric):
        """What the executor takes: of a forward, a backward, and both."""
        (heads_q, heads_kv), (head_dim, head_dim_v) = self.heads, self.head_dims

        def made(heads: int, head_dim: int) -> torch.Tensor:
            return torch.zeros(self.batch, self.tokens, heads, head_dim, dtype=self.dtype)

        wide = accumulator_dtype(self.dtype)
        job = Job(one, self.backend, Score(1.0), self.travels or wide)
        q, dout = made(heads_q, head_dim), made(heads_q, head_dim_v)
        keys = Keys(made(heads_kv, head_dim), made(heads_kv, head_dim_v))
        transport = messages()
        if symmetric:
            transport = Symmetric(self.tokens * self.sizes.width * 8)

        keeps = self.options.keep_keys

        def both():
            kept = None
            if keeps:
                (out, lse), kept = passes.forward_keeping(job, transport, q, keys)
            else:
                out, lse = passes.forward(job, transport, q, keys)
            rows = Rows(q, dout, out, lse)
            return out, lse, kept, passes.backward(job, transport, rows, keys, kept=kept)

        out = torch.zeros(self.batch, self.tokens, heads_q, head_dim_v, dtype=self.dtype)
        lse = torch.zeros(self.batch, heads_q, self.tokens, dtype=wide)
        rows, kept = Rows(q, dout, out, lse), None
        if keeps:
            with nobody_else():
                _, kept = passes.forward_keeping(job, transport, q, keys)
        return (
            most_bytes(lambda: passes.forward(job, transport, q, keys)),
            most_bytes(lambda: passes.backward(job, transport, rows, keys, kept=kept)),
            most_bytes(both),
        )

    def predicted(self, one, *, symmetric):
        given, keeps = (one, self.sizes, self.kernel), self.options.keep_keys
        return (
            memory.forward(*given, symmetric=symmetric).bytes,
            *(
                function(*given, symmetric=symmetric, keeps=keeps).bytes
                for function in (memory.backward, memory.forward_backward)
            ),
        )

    def check(self):
        ends = {self.plans[0], self.plans[len(self.plans) // 2], self.plans[-1]}
        for one, symmetric in product(ends, (False, True)):
            if symmetric and self.world_size == 1:
                continue
            taken, predicted = (f(one, symmetric=symmetric) for f in (self.taken, self.predicted))
            assert predicted == taken, (self, one.rank, symmetric)


def backend_for(options, kind=Accumulating, *, needs_delta=True):
    return (Gathering if options.schedule == "one_launch" else kind)(needs_delta=needs_delta)


FULL_ONLY = pytest.mark.full


@pytest.mark.parametrize(
    "world_size", [1, 2, 3, *(pytest.param(size, marks=FULL_ONLY) for size in (5, 8))]
)
@pytest.mark.parametrize("options", SCHEDULES, ids=str)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_predicted_is_what_is_taken(world_size, partition, options):
    for mask in (CAUSAL, FULL, WINDOW) if partition == "contiguous" else (CAUSAL, FULL):
        Call(world_size, partition, mask, options, backend=backend_for(options)).check()


@pytest.mark.parametrize("options", [x for x in SCHEDULES if x.schedule != "one_launch"], ids=str)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("needs_delta", [False, True])
def test_kernels_whose_results_are_merged(partition, options, needs_delta):
    backend = Plain(needs_delta=needs_delta)
    for world_size in (1, 3):
        Call(world_size, partition, options=options, backend=backend).check()


@pytest.mark.parametrize("options", SCHEDULES, ids=str)
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, *(pytest.param(x, marks=FULL_ONLY) for x in (torch.float32, torch.float64))],
    ids=str,
)
def test_dtypes_heads_and_batches(dtype, options):
    for travels, heads, batch, head_dims in (
        (None, (8, 1), 3, (8, 16)), (dtype, (2, 2), 1, (16, 8)),
    ):  # fmt: skip
        for kind in (Accumulating, Plain):
            if kind is Plain and options.schedule == "one_launch":
                continue
            Call(
                3, options=options, batch=batch, heads=heads, head_dims=head_dims, dtype=dtype,
                travels=travels, backend=backend_for(options, kind),
            ).check()  # fmt: skip


H200 = {"heads": (32, 8), "head_dims": (128, 128), "backend": Accumulating(needs_delta=True)}


def hopper(call):
    """The kernel with what triton's takes on an H200 for shares of dk and dv."""

    def scratch(launch):
        assert isinstance(launch, Launch)
        band = launch.block.index_band
        return shares_bytes(
            call.batch, len(launch.keys), *call.heads, *call.head_dims,
            ragged=band is None or not band.is_open,
        )  # fmt: skip

    return KernelMemory(accumulates=True, needs_delta=True, scratch=scratch)


@pytest.mark.parametrize(
    ("world_size", "tokens", "forward", "both"),
    [(4, 8192, 289, 610), (4, 16384, 578, 1220), (2, 16384, 514, 836), (2, 32768, 1028, 1672)],
)
def test_figures_of_an_h200(world_size, tokens, forward, both):
    """As measured, in MiB of the rank with most; at 32k tokens without the shares of before."""
    call = Call(world_size, tokens=tokens, **H200)
    given = call.sizes, hopper(call)
    for function, mib in (
        (memory.forward, forward), (memory.forward_backward, both),
    ):  # fmt: skip
        most = max(function(one, *given, symmetric=False).bytes for one in call.plans)
        assert most == mib * MIB, function


@pytest.mark.parametrize("tokens", [24, 30, 48, 100, 120])
def test_keys_that_land_take_no_more_than_their_budget(tokens):
    options = RingOptions(schedule="one_launch", landing_tokens=tokens)
    call = Call(8, options=options, backend=Gathering(needs_delta=True))
    for one in call.plans:
        taken = memory.forward(one, call.sizes, call.kernel, symmetric=True)
        assert 0 < taken.terms["landing"] <= call.sizes.packed(tokens, call.sizes.element)


def test_every_byte_has_its_term():
    call = Call(2, tokens=16384, **H200)
    found = memory.forward_backward(call.plans[0], call.sizes, call.kernel, symmetric=False)
    assert sum(found.terms.values()) == found.bytes == 836 * MIB
    assert {name: size // MIB for name, size in found.terms.items()} == {
        "out": 128, "lse": 2, "delta": 2, "dq_wide": 256, "outgoing": 64, "landing": 64,
        "home": 128, "partials": 128, "inbox": 64,
    }  # fmt: skip


def test_what_copy_engines_keep():
    keys = 16384 * 2048 * 2
    assert kept_bytes(2, keys, None) == 2 * keys + 48
    assert kept_bytes(2, keys, 2 * keys) == 2 * keys + 2 * keys + 48
