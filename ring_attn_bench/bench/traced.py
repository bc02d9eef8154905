"""A ring that is looked at: the same job and transport, each call of which leaves a span.

The ring knows nothing of it, and one that is not looked at pays nothing: what is recorded stands
around the kernel and around the link, which are its seams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic

import torch
from torch import Tensor

from ring_attn_bench.bench.recorder import Mark, Recorder
from ring_attn_bench.contract.backend import accumulating, gathering, packed, together
from ring_attn_bench.contract.tensors import Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.plans import Plan
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.link import Homeward, Transport


def traced_job(job: Job, recorder: Recorder[Mark]) -> Job:
    """The job, whose launches are recorded."""
    steps = {
        launch.block: index for index, step in enumerate(job.plan.steps) for launch in step.launches
    }
    backend = job.backend
    adds = (_Accumulating,) if accumulating(backend) is not None else ()
    gathers = (_Gathering,) if gathering(backend) is not None else ()
    if together(backend) is not None:
        gathers = (_Together,)
    packs = (_Packing,) if packed(backend) is not None else ()
    # a backend can what its class has: so the class of what stands around it has as much
    kind = type("TracedBackend", (*adds, *gathers, *packs, _Kernel), {})
    return replace(job, backend=kind(backend, recorder, steps))


class _Kernel:
    """A backend whose calls are recorded; all else is its own."""

    def __init__(
        self, backend: object, recorder: Recorder[Any], steps: Mapping[Block, int]
    ) -> None:
        self._backend: Any = backend
        self._recorder, self._steps = recorder, steps

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a backend has
        return getattr(self._backend, name)

    def _launch(self, name: str, block: Block | None) -> Any:  # noqa: ANN401 - a context
        step = None if block is None else self._steps.get(block)
        return self._recorder.span("launches", name, step)

    def forward(
        self, q: Tensor, keys: object, block: Block, score: object
    ) -> tuple[Tensor, Tensor]:
        with self._launch(f"forward {q.shape[1]} rows", block):
            given: tuple[Tensor, Tensor] = self._backend.forward(q, keys, block, score)
        return given

    def backward(
        self, rows: Rows, keys: object, block: Block, score: object, *, deterministic: bool
    ) -> Sums:
        with self._launch(f"backward {rows.q.shape[1]} rows", block):
            given: Sums = self._backend.backward(
                rows, keys, block, score, deterministic=deterministic
            )
        return given


class _Accumulating(_Kernel):
    def forward_into(
        self, q: Tensor, keys: object, running: object, block: Block, score: object, **flags: bool
    ) -> None:
        with self._launch(f"forward {q.shape[1]} rows", block):
            self._backend.forward_into(q, keys, running, block, score, **flags)

    def backward_into(
        self, rows: Rows, keys: object, sums: object, block: Block, score: object, **flags: bool
    ) -> None:
        with self._launch(f"backward {rows.q.shape[1]} rows", block):
            self._backend.backward_into(rows, keys, sums, block, score, **flags)


class _Gathering(_Kernel):
    def gathered_forward(self, *arguments: object) -> tuple[Tensor, Tensor]:
        with self._launch("one launch: forward", None):
            given: tuple[Tensor, Tensor] = self._backend.gathered_forward(*arguments)
        return given

    def gathered_dkdv(self, *arguments: object, **flags: bool) -> None:
        with self._launch("one launch: dk, dv", None):
            self._backend.gathered_dkdv(*arguments, **flags)

    def gathered_dq(self, *arguments: object) -> Tensor:
        with self._launch("one launch: dq", None):
            given: Tensor = self._backend.gathered_dq(*arguments)
        return given


class _Together(_Gathering):
    def gathered_backward(
        self, *arguments: object, own_first: bool, leave: Callable[[], None]
    ) -> Tensor:
        with self._launch("one launch: backward", None):
            given: Tensor = self._backend.gathered_backward(
                *arguments, own_first=own_first, leave=leave
            )
        return given


class _Packing(_Kernel):
    def packed_forward(self, q: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
        with self._launch(f"packed forward {len(q)} rows", None):
            given: tuple[Tensor, Tensor] = self._backend.packed_forward(q, *arguments)
        return given

    def packed_backward(self, rows: Rows, *arguments: object, **flags: bool) -> Sums:
        with self._launch(f"packed backward {len(rows.q)} rows", None):
            given: Sums = self._backend.packed_backward(rows, *arguments, **flags)
        return given


class TracedTransport(Generic[Mark]):
    """A transport whose passes are recorded; all else is its own."""

    def __init__(self, transport: Transport, recorder: Recorder[Mark]) -> None:
        self._transport, self._recorder = transport, recorder

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a transport has
        return getattr(self._transport, name)

    def outgoing(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The transport's."""
        return self._transport.outgoing(tokens, width, dtype, device)

    def begin(self, plan: Plan) -> TracedLink[Mark]:
        """A pass of the transport's."""
        return TracedLink(self._transport.begin(plan), plan, self._recorder)

    def resume(self, plan: Plan) -> TracedLink[Mark]:
        """The same without keys."""
        resuming: Any = self._transport
        return TracedLink(resuming.resume(plan), plan, self._recorder)


class TracedLink(Generic[Mark]):
    """A link whose transfers and waits are recorded.

    A transfer is from where it was posted to where it has arrived. Where copies have streams of
    their own (`copies_on`), it is what those streams were at it.
    """

    def __init__(self, link: Homeward, plan: Plan, recorder: Recorder[Mark]) -> None:
        self._link: Any = link
        self._plan, self._recorder, self._clock = plan, recorder, recorder.clock
        streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None
        streams = getattr(link, "copies_on", None)
        self._pulls = None if streams is None else streams[0]
        self._pushes = None if streams is None else streams[1]
        self._posted: dict[int, Mark] = {}
        self._given: deque[tuple[int, Mark, int]] = deque()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a link has: `arriving`
        return getattr(self._link, name)

    def publish(self, keys: Tensor) -> None:
        """A wait, where ranks meet."""
        with self._recorder.span("waits", "publish", None):
            self._link.publish(keys)

    def post(self, index: int) -> None:
        """Begins the step's transfer of keys."""
        if self._pulls is not None:
            with self._recorder.span("keys", f"keys of step {index}", index, self._pulls):
                self._link.post(index)
            return
        self._posted[index] = self._clock.mark()
        self._link.post(index)

    def landed(self, index: int) -> Tensor:
        """Ends it, and is a wait."""
        start = self._clock.mark()
        if self._pulls is not None:
            landed: Tensor = self._link.landed(index)
        else:
            landed, arrived = self._clock.arrival(lambda: self._link.landed(index))
            posted = self._posted.pop(index, start)
            if self._plan.steps[index].fetches:
                self._recorder.add("keys", f"keys of step {index}", index, posted, arrived)
        self._waited(f"keys of step {index}", index, start)
        return landed

    def give(self, index: int, partials: Tensor) -> None:
        """Begins the step's transfer of gradients."""
        if self._pushes is not None:
            name = f"gradients of step {index}"
            # as the link does next: an idle stream would come to the mark when the host enqueues it
            self._pushes.wait_stream(torch.cuda.current_stream())
            with self._recorder.span("gradients", name, index, self._pushes):
                self._link.give(index, partials)
            return
        parts = max(1, len(self._plan.steps[index].sends))
        self._given.append((index, self._clock.mark(), parts))
        self._link.give(index, partials)

    def received(self, outstanding: int) -> Iterator[tuple[Range, Tensor]]:
        """Waits; what has been given first has then come."""
        every = iter(self._link.received(outstanding))
        while True:
            start = self._clock.mark()
            given = next(every, None)
            self._waited("gradients", None, start)
            if given is None:
                return
            self._come()
            yield given

    def finish(self) -> None:
        """A wait for whatever is left."""
        start = self._clock.mark()
        self._link.finish()
        self._waited("the end", None, start)
        while self._given:
            self._come(parts=self._given[0][2])

    def _come(self, parts: int = 1) -> None:
        """So many parts of what was given first are here."""
        if not self._given:
            return
        index, start, left = self._given.popleft()
        if left > parts:
            self._given.appendleft((index, start, left - parts))
            return
        self._recorder.add(
            "gradients", f"gradients of step {index}", index, start, self._clock.mark()
        )

    def _waited(self, name: str, step: int | None, start: Mark) -> None:
        self._recorder.add("waits", name, step, start, self._clock.mark())
