"""What options come to for one layout: nothing `auto`, and no more keys than may lie there.

Everything follows from what all ranks know, so that all settle alike. Imports no torch.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.block import Abilities
from ring_attn_bench.plan.documents import NONE, Starts, Void
from ring_attn_bench.plan.layout import Layout, Queries
from ring_attn_bench.plan.partition import AnyPartition, get_partition
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.plan.room import Room
from ring_attn_bench.ring.fastest import Known, fastest
from ring_attn_bench.ring.landing import Needs, groups, largest, needs
from ring_attn_bench.ring.options import RingOptions, resolved
from ring_attn_bench.ring.schedules import SCHEDULES, named


def one_launch_is_ruled(
    able: Abilities, partition: AnyPartition, world_size: int, tokens: int,
    *, arrives: bool, documents: bool,
) -> bool:  # fmt: skip
    """Whether `auto` is one launch: `waits`, of what is settled.

    arrives: whether a transport lets a launch wait for keys on their way. Of several documents,
    blocks are many launches; a kernel that takes them packed has one where rows are no stripes.
    """
    if able.gathers:
        return arrives or documents
    if not (able.packs and documents):
        return False
    return all(span.step == 1 for span in get_partition(partition).spans(0, world_size, tokens))


def is_open(options: RingOptions) -> bool:
    """Whether the options leave it to the ring how keys come."""
    return options.schedule == "auto" and options.grouping == "auto"


def settled(
    partition: AnyPartition,
    world_size: int,
    tokens: int,
    mask: Mask,
    options: RingOptions,
    *,
    waits: bool = False,
    known: Known | None = None,
    documents: Starts | None = None,
    queries: Queries | None = None,
    void: Void = NONE,
    room: Room | None = None,
) -> RingOptions:
    """The options without `auto`, cut to `landing_tokens`; transport is left as it is.

    tokens: of each rank. documents, queries, void, room: as in `Layout`. waits: as in `resolved`,
    whose rule is what is taken; but where schedule and grouping are `auto` and the call is known,
    what is `fastest` by the model.

    Raises UnknownName, or InvalidArgument for a length or a grouping that does not fit the ranks,
    and for keys that cannot fit the budget.
    """
    where = partition, world_size, tokens, mask
    packed = documents, queries, void, room
    rule = _ruled(*where, options, packed, waits=waits)
    if known is None or world_size == 1 or not is_open(options):
        return rule
    candidates = [rule]
    for schedule in (name for name, schedule in SCHEDULES.items() if schedule.weighed):
        with suppress(InvalidArgument):  # slots that were asked for may not fit the budget then
            asked = replace(options, schedule=schedule)
            candidates.append(_ruled(*where, asked, packed))
    layouts = {took: laid_out(*where, took, *packed) for took in candidates}
    return fastest(layouts, rule, known)


def _ruled(
    partition: AnyPartition,
    world_size: int,
    tokens: int,
    mask: Mask,
    options: RingOptions,
    packed: tuple[Starts | None, Queries | None, Void, Room | None],
    *,
    waits: bool = False,
) -> RingOptions:
    took = resolved(options, world_size, waits=waits)
    layout = laid_out(partition, world_size, tokens, mask, took, *packed)
    if options.landing_tokens is None or world_size == 1:
        return took
    return _Budget(options.landing_tokens, needs(layout), layout).fitted(options, took)


def layout_of(
    partition: AnyPartition,
    world_size: int,
    tokens: int,
    mask: Mask,
    options: RingOptions,
    *,
    waits: bool = False,
    known: Known | None = None,
    documents: Starts | None = None,
) -> Layout:
    """Who holds what, and the steps that the options ask for; arguments and errors of `settled`."""
    where = partition, world_size, tokens, mask
    took = settled(*where, options, waits=waits, known=known, documents=documents)
    return laid_out(*where, took, documents)


def laid_out(
    partition: AnyPartition,
    world_size: int,
    tokens: int,
    mask: Mask,
    took: RingOptions,
    documents: Starts | None = None,
    queries: Queries | None = None,
    void: Void = NONE,
    room: Room | None = None,
) -> Layout:
    """Who holds what, and the steps of options that are settled."""
    assert took.slots != "auto"  # nothing is, once resolved
    assert took.grouping != "auto"
    rule, whole = get_partition(partition), SCHEDULES[took.schedule].waits
    where = rule, world_size, tokens, mask.band
    return Layout(*where, took.slots, took.grouping, whole, documents, queries, void, room)


class _Budget:
    """So many tokens of other ranks' keys may lie on a rank at once."""

    def __init__(self, tokens: int, fetched: Needs, layout: Layout) -> None:
        self._tokens, self._needs, self._layout = tokens, fetched, layout

    def fitted(self, options: RingOptions, took: RingOptions) -> RingOptions:
        """took, cut where the options leave it open."""
        others = len(self._needs)
        one = largest(self._needs, _each(others))
        if one > self._tokens:
            raise InvalidArgument(
                f"landing_tokens is {self._tokens}, but a rank fetches up to {one} tokens of "
                f"another here ({self._layout.tokens} each, partition "
                f"{self._layout.partition.name!r}), which come together; allow {one} or more, or "
                "deal the sequence to more ranks."
            )
        if options.grouping != "auto":
            return self._with_slots(options, took)
        assert took.slots != "auto"
        assert took.grouping != "auto"
        if self._fits(_each(others) if took.grouping is None else took.grouping, took.slots):
            return took
        for slots in (2, 1) if options.slots == "auto" else (options.slots,):
            area = self._tokens // min(slots, others)
            sizes = groups(self._needs, area, SCHEDULES[took.schedule].limits(others))
            if sizes is not None:
                return replace(
                    took,
                    schedule=named(sizes),
                    slots=min(slots, len(sizes)) if options.slots == "auto" else slots,
                    grouping=None if took.grouping is None else sizes,
                )
        raise self._too_many(took, one)

    def _fits(self, sizes: tuple[int, ...], slots: int) -> bool:
        return min(slots, len(sizes)) * largest(self._needs, sizes) <= self._tokens

    def _with_slots(self, options: RingOptions, took: RingOptions) -> RingOptions:
        """took, whose grouping was asked for."""
        assert took.grouping != "auto"
        sizes = _each(len(self._needs)) if took.grouping is None else took.grouping
        area = largest(self._needs, sizes)
        if area > self._tokens:
            raise InvalidArgument(
                f"grouping is {sizes}, whose largest step brings {area} tokens, but landing_tokens "
                f"is {self._tokens}; leave grouping at 'auto', or allow {area} or more."
            )
        for slots in (2, 1) if options.slots == "auto" else (options.slots,):
            if self._fits(sizes, slots):
                took_slots = min(slots, len(sizes)) if options.slots == "auto" else slots
                return replace(took, slots=took_slots)
        raise self._too_many(took, area)

    def _too_many(self, took: RingOptions, area: int) -> InvalidArgument:
        return InvalidArgument(
            f"slots is {took.slots}, so that {min(took.slots, len(self._needs))} landing areas of "
            f"{area} tokens lie there at once, but landing_tokens is {self._tokens}; leave slots "
            f"at 'auto', take at most {self._tokens // area}, or allow more tokens."
        )


def _each(others: int) -> tuple[int, ...]:
    return (1,) * others
