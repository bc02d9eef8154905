"""A kernel on packed documents of one device as a contestant: the ring of one rank has no ring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ring_attn_bench.bench import flops, packed_call
from ring_attn_bench.bench.contestant import Gradients, Outputs, Refused
from ring_attn_bench.bench.inputs import Inputs
from ring_attn_bench.bench.packed_call import PackedCall
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.recorder import Recorder
from ring_attn_bench.bench.ring_contestant import load_backend
from ring_attn_bench.contract.backend import Backend, is_interpreted
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant


@dataclass(frozen=True)
class PackedRunner:
    """A kernel, its call, and the allowed pairs of all documents."""

    kernel: Backend
    packed: PackedCall
    pairs: int

    took = None
    job = None

    @property
    def version(self) -> str:
        """The version of the kernel's package."""
        return self.kernel.version()

    @property
    def interpreted(self) -> bool:
        """Whether the kernel says so."""
        return is_interpreted(self.kernel)

    @property
    def capturable(self) -> bool:
        """Whether its calls can be put into CUDA graphs: not where starts are read for each."""
        return self.packed.is_one_call

    @property
    def allowed_pairs(self) -> list[int]:
        """Those of all documents."""
        return [self.pairs]

    def link_bytes(self, case: Case, direction: Direction) -> None:
        """None: nothing travels."""

    def twin(self) -> None:
        """None: nothing travels."""

    def traced(self, recorder: Recorder[Any]) -> None:
        """None: there is one launch."""

    def forward(self, shards: Sequence[Inputs]) -> list[Outputs]:
        """out and lse."""
        return [self.packed.forward(x) for x in shards]

    def backward(self, shards: Sequence[Inputs], outputs: Sequence[Outputs]) -> list[Gradients]:
        """dq, dk and dv."""
        found: list[Gradients] = []
        for x, (out, lse) in zip(shards, outputs, strict=True):
            assert lse is not None  # as forward gives it
            dq, dk, dv = self.packed.backward(x, out, lse)
            found.append((dq, dk, dv))
        return found


def make(case: Case, spec: Contestant, place: WorkerPlace, *, backward: bool) -> PackedRunner:
    """The contestant on this process; raises Refused with the backend's reason."""
    backend = load_backend(spec.backend, case, place.device, backward=backward)
    packed = packed_call.make(case, backend, place.device, case.seqlen_total)
    if (reason := packed_call.reason_against(case, packed)) is not None:
        raise Refused(reason)
    return PackedRunner(backend, packed, flops.area(case))
