"""Measures, on every process of a group at once, what the machine makes of plain work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.timing import Call, Timer
from ring_attn_bench.records.ceilings import Gauged

_LEAST, _MOST = 3, 50
"""Timed calls of each kind."""
_WARM = 2
_ROW = 2**14
"""Numbers of which one is the largest: thousands of them keep every multiprocessor at work."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of square matrices, bytes that are copied and sent, and seconds for each of them."""

    square: int
    copied: int
    sent: int
    seconds: float


ON_GPU = Sizes(8192, 2**30, 2**28, 0.3)
"""Large enough for the best pace: 8192 rows fill an H200 many times over, 1 GiB is 17 times its
cache, and NCCL is at its fastest at 256 MiB (plan/measured.py)."""
ON_CPU = Sizes(512, 2**25, 2**23, 0.05)


def gauge(place: WorkerPlace, timer: Timer, dtypes: Sequence[str]) -> Gauged:
    """This process's rates; a collective of the group's processes.

    Where memory is too small on one of them, nothing is measured on any.
    """
    sizes = ON_GPU if place.device.type == "cuda" else ON_CPU
    gauging = _Gauging(place, timer, sizes)
    try:
        return gauging.all_of(dtypes)
    except _TooLittleMemory as error:
        return Gauged(unmeasured=str(error))


class _TooLittleMemory(Exception):
    """On one process at least; raised on all of them."""


class _Gauging:
    def __init__(self, place: WorkerPlace, timer: Timer, sizes: Sizes) -> None:
        self._place, self._timer, self._sizes = place, timer, sizes

    def all_of(self, dtypes: Sequence[str]) -> Gauged:
        sizes = self._sizes
        pulls, why_not = self._pulls()
        return Gauged(
            matmul_tflops={name: self._matmul(getattr(torch, name)) for name in dtypes},
            copy_gbs=self._copy(),
            read_gbs=self._read(),
            messages_gbs=self._messages(),
            pulls_gbs=pulls,
            square=sizes.square,
            copied_bytes=sizes.copied,
            sent_bytes=sizes.sent if self._place.processes > 1 else 0,
            unmeasured=why_not,
        )

    def _matmul(self, dtype: torch.dtype) -> float:
        """TFLOP/s of random numbers: zeros take less power, and clocks are higher."""
        rows = self._sizes.square
        a, b, c = self._empty(dtype, rows * rows, 3)
        for x in (a, b):
            x.normal_()
        a, b, c = (x.view(rows, rows) for x in (a, b, c))
        return _rate(2 * rows**3 / 1e12, self._seconds(lambda: torch.matmul(a, b, out=c)))

    def _copy(self) -> float:
        size = self._sizes.copied
        source, target = self._empty(torch.uint8, size, 2)
        return _rate(2 * size / 1e9, self._seconds(lambda: target.copy_(source)))

    def _read(self) -> float:
        """By a maximum over as many bytes as are copied: it writes next to nothing.

        A copy is half writes, between which and reads memory has to turn around.
        """
        (source,) = self._empty(torch.float32, self._sizes.copied // 4, 1)
        rows = source.normal_().view(-1, _ROW)
        return _rate(source.nbytes / 1e9, self._seconds(lambda: rows.amax(dim=1)))

    def _messages(self) -> float | None:
        place, size = self._place, self._sizes.sent
        if place.processes == 1:
            return None
        own, theirs = self._empty(torch.uint8, size, 2)
        after, before = ((place.process + at) % place.processes for at in (1, -1))

        def shift() -> None:
            sent, got = dist.P2POp(dist.isend, own, after), dist.P2POp(dist.irecv, theirs, before)
            for work in dist.batch_isend_irecv([sent, got]):
                work.wait()

        return _rate(size / 1e9, self._seconds(shift))

    def _pulls(self) -> tuple[float | None, str]:
        """By copies from the rank before, and why that could not be, where it should have been."""
        if self._place.processes == 1 or self._place.device.type != "cuda":
            return None, ""
        with _own_group() as group:
            return self._pulled_over(group)

    def _pulled_over(self, group: dist.ProcessGroup) -> tuple[float | None, str]:
        """By itself, so that no memory of the group's is left when it ends."""
        from ring_attn_bench.ring.transports.copy_engine.areas import Area
        from ring_attn_bench.ring.transports.copy_engine.transport import CopyEngine

        if CopyEngine.unsupported(group) is not None:
            return None, ""
        place, size = self._place, self._sizes.sent
        (target,) = self._empty(torch.uint8, size, 1)
        try:
            area = Area(group, place.device, size)
            theirs = area.of((place.process - 1) % place.processes)[:size]
            return _rate(size / 1e9, self._seconds(lambda: target.copy_(theirs))), ""
        except RuntimeError as error:
            words = str(error).strip().splitlines() or ["no reason given"]
            return None, f"copies from a peer's memory failed: {words[0][:300]}"

    def _empty(self, dtype: torch.dtype, numbers: int, count: int) -> list[Tensor]:
        """So many tensors, on all processes or, with _TooLittleMemory, on none."""
        made, failed = [], 0.0
        try:
            made = [
                torch.empty(numbers, dtype=dtype, device=self._place.device) for _ in range(count)
            ]
        except (RuntimeError, MemoryError):  # a CPU's allocator has a RuntimeError
            failed = 1.0
        if self._place.largest(torch.tensor([failed], device=self._place.device)).item():
            size = count * numbers * dtype.itemsize / 2**20
            raise _TooLittleMemory(f"a process has no {size:,.0f} MiB to measure with")
        return made

    def _seconds(self, call: Call) -> float:
        """The median of as many calls as there is time for; as many on every process."""
        (pilot,) = self._timer.sample(call, 1, _WARM)
        longest = self._place.largest(torch.tensor([pilot], device=self._place.device)).item()
        count = max(_LEAST, min(_MOST, int(1e3 * self._sizes.seconds / max(longest, 1e-3))))
        return max(median(self._timer.sample(call, count, 0)), 1e-6) / 1e3


def _rate(work: float, seconds: float) -> float:
    """To five digits, which is more than is known."""
    return float(f"{work / seconds:.5g}")


@contextmanager
def _own_group() -> Iterator[dist.ProcessGroup]:
    group = dist.new_group()
    try:
        yield group
    finally:
        dist.destroy_process_group(group)
