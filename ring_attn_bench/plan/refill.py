"""Writes another batch's documents to where launches of a captured one read theirs."""

from __future__ import annotations

from dataclasses import replace

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.room import Place, Write


def refill(captured: DealtDocuments, batch: DealtDocuments) -> None:
    """Makes what was captured with the one value of the other; all is checked before any is
    written.

    Raises InvalidArgument for a value without room, and for a batch that does not fit.
    """
    room = captured.room
    if room is None:
        raise InvalidArgument(
            "the captured documents have no room for others; make them with documents(..., "
            "capacity=N), of the most documents that a batch has."
        )
    for what, mine, other in (
        ("ranks", captured.world_size, batch.world_size),
        ("tokens on each rank", captured.tokens, batch.tokens),
        ("tokens in documents", captured.starts[-1], batch.starts[-1]),
        ("from one token of a rank to the next", step_of(captured), step_of(batch)),
    ):
        if mine != other:
            raise InvalidArgument(
                f"the captured documents have {mine} {what}, and these have {other}; they must be "
                "the same, with padding as a document of its own."
            )
    if captured.uneven != batch.uneven:
        raise InvalidArgument(
            f"the captured documents have uneven={captured.uneven}, and these "
            f"uneven={batch.uneven}; they must be alike."
        )
    check_room(batch, room.documents)
    now = replace(batch, room=room)
    writes: list[Write] = []
    for place in room.launches.values():
        writes += _writes(place, now)
    for write in writes:
        write()
    room.now = now


def step_of(documents: DealtDocuments) -> int:
    """How many positions there are from one token of a rank to the next: 1, or of stripes more."""
    return documents.spans(0)[0].step


def check_room(documents: DealtDocuments, capacity: int) -> None:
    """Raises InvalidArgument for documents that no launch with so much room can take."""
    count = len(documents.starts) - 1
    if documents.void:
        raise InvalidArgument(
            "seqused is given, with documents of a capacity; padding inside would be captured: "
            "pass documents of the tokens that are used."
        )
    if count > capacity:
        raise InvalidArgument(
            f"there are {count} documents, and capacity is {capacity}; it must be the most "
            "documents that a batch has."
        )


def _writes(place: Place, batch: DealtDocuments) -> list[Write]:
    layout = replace(place.layout, documents=batch.starts, partition=batch.partition)
    made = plan(layout, place.rank, place.able)
    if isinstance(made, str):
        raise InvalidArgument(f"of these documents: {made}")
    return [
        write
        for step in made.steps
        if step.gathered is not None
        for write in place.refills(step.gathered)
    ]
