"""A pass of the ring as data: what one rank fetches, sends, launches, gives back and receives.

A plan is a row of steps. Step 0 is the rank's own keys; each later step brings the keys of one or
more other ranks, straight from their owners: at offset i rank r reads from rank r - i, so a step
is a permutation of the ranks. How many offsets share a step is the grouping: (1, 1, 1) is the
classic ring, (3,) a gather, anything between a grouped ring; the code that runs it is the same.

Of documents, a kernel that takes them packed has packed calls in place of launches (`packs`).

Gradients go the way of the keys, backwards: each `Fetch` of a step is a `dk, dv` partial that
this rank gives to the owner when the step's launches are done, and each `Send` is one that the
reader gives to this rank. So the plan does not list them again.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from ring_attn_bench.plan.block import Abilities, Block
from ring_attn_bench.plan.fetches import Fetch, Send, fetches_of, landed, sends_of
from ring_attn_bench.plan.gathered import OWN, Gathered, gathered
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.lower import Chunk, Cut, chunks, lower
from ring_attn_bench.plan.packs import Pack, packs, whole_packs
from ring_attn_bench.plan.positions import Band, Range, Spans, count
from ring_attn_bench.plan.touched import first_flags, last_flags, without


@dataclass(frozen=True)
class Launch:
    """One kernel call: `rows` of the rank's queries against `keys` of the step's landing area.

    In step 0 the landing area is the rank's own shard.
    first: no earlier launch had any of these rows, so there is nothing to merge with.
    last: no later launch has any of these rows, so the result can go out in the output's dtype.
    first_keys: no earlier launch of this step had any of these keys.
    """

    rows: Range
    keys: Range
    block: Block
    first: bool
    last: bool
    first_keys: bool


@dataclass(frozen=True)
class Step:
    """The keys of some ranks: what comes and goes for them, then the launches over them."""

    fetches: tuple[Fetch, ...]
    sends: tuple[Send, ...]
    launches: tuple[Launch, ...]
    post_at: int
    """The step before whose launches the transfer may be posted: its landing area is free then."""
    keys_start_at_zero: bool
    """Whether dk, dv of the step must start from zeros (launches overlap in part, or miss keys)."""
    gathered: Gathered | None = None
    """One launch over the rank's own keys and all that the step fetches, instead of `launches`:
    the n-th fetch is its piece n, counted from 1."""
    packs: tuple[Pack, ...] = ()
    """Packed calls over the step's keys, instead of `launches`."""
    with_own: bool = False
    """Whether the rank's own keys are in front of the landed ones, in one area for its packs."""

    @cached_property
    def landing_tokens(self) -> int:
        """The size of the step's landing area, in tokens."""
        return sum(len(fetch.tokens) for fetch in self.fetches)


@dataclass(frozen=True)
class Plan:
    """What one rank does in a forward or a backward pass.

    tokens: the rank's local length, of keys. queries: of queries, where that is another.
    slots: landing areas that exist at once; step s uses area (s - 1) % slots.
    rows_start_at_zero: whether out must start from zeros and lse from -inf.
    unfinished: rows whose final value is not written by a launch marked `last`.
    """

    rank: int
    world_size: int
    tokens: int
    slots: int
    steps: tuple[Step, ...]
    rows_start_at_zero: bool
    unfinished: tuple[Range, ...]
    queries: int | None = None
    of_batch: bool = False
    """Whether it is of one batch's documents: nobody asks again for what is kept of it."""

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """Every launch, in order."""
        return tuple(launch for step in self.steps for launch in step.launches)

    @cached_property
    def sends(self) -> bool:
        """Whether anybody reads this rank's keys."""
        return any(step.sends for step in self.steps)

    @cached_property
    def gathers(self) -> bool:
        """Whether all it launches is one launch over the keys of all ranks."""
        return any(step.gathered is not None for step in self.steps)

    @cached_property
    def packs(self) -> tuple[Pack, ...]:
        """Every packed call, in order."""
        return tuple(pack for step in self.steps for pack in step.packs)

    @cached_property
    def writes_rows_once(self) -> bool:
        """Whether no two launches have a row in common, nor any row none."""
        return not self.packs and all(launch.first and launch.last for launch in self.launches)

    @cached_property
    def merges_once(self) -> bool:
        """Whether the first launch has all rows, and no row is in two of the others.

        What a kernel gives for it can then be what the others are merged into, as it is.
        """
        if not self.launches or self.rows_start_at_zero:
            return False
        first, *others = self.launches
        rows = self.tokens if self.queries is None else self.queries
        return len(first.rows) == rows and all(launch.last for launch in others)

    @cached_property
    def adds_keys_once(self) -> bool:
        """Whether all own keys are in one launch, and at most one gradient is added to them.

        Of rings whose keys come in one step: in others it would come between launches.
        """
        if not 0 < len(self.steps) <= 2:
            return False
        own = self.steps[0]
        gifts = sum(len(step.sends) for step in self.steps)
        return len(own.launches) == 1 and not own.keys_start_at_zero and gifts <= 1

    @cached_property
    def gives_shares(self) -> bool:
        """Whether each gradient of another rank's keys is one launch's, so that nothing is added
        to it before it is at home."""
        return (
            not self.gathers
            and not self.packs
            and all(launch.first_keys for step in self.steps[1:] for launch in step.launches)
        )

    @cached_property
    def due(self) -> tuple[tuple[int, ...], ...]:
        """By step, the steps whose transfers are posted before its launches, in their order."""
        posted = list(enumerate(step.post_at for step in self.steps))[1:]
        return tuple(tuple(i for i, at in posted if at == now) for now in range(len(self.steps)))

    @cached_property
    def landing_tokens(self) -> int:
        """The size of one landing area, in tokens."""
        return max((step.landing_tokens for step in self.steps), default=0)

    @property
    def area(self) -> int:
        """Allowed pairs that this rank computes."""
        whole = sum(step.gathered.area for step in self.steps if step.gathered is not None)
        packed = sum(pack.area for pack in self.packs)
        return whole + packed + sum(launch.block.area for launch in self.launches)

    @property
    def fetched_tokens(self) -> int:
        """Tokens of other ranks that this rank reads in one pass."""
        return sum(step.landing_tokens for step in self.steps)


def plan(layout: Layout, rank: int, able: Abilities) -> Plan | str:
    """What `rank` does, for a kernel that can be given such blocks; or why that cannot be."""
    return (_plan if layout.documents is None else _plan_of_documents)(layout, rank, able)


def _made(layout: Layout, rank: int, able: Abilities) -> Plan | str:
    if layout.room is not None and not (layout.one_launch and able.gathers):
        return (
            "documents with a capacity are one launch of a kernel that takes the keys of all "
            "ranks, as 'triton' (schedule 'one_launch', without landing_tokens)"
        )
    if layout.one_launch and (layout.world_size > 1 or layout.documents is not None):
        return _one_launch(layout, rank, able)
    if able.packs and layout.documents is not None and not able.index_alibi:
        return _by_packs(layout, rank)
    lowered = []
    for offsets in layout.offsets:
        pieces = _pieces(layout, rank, offsets, able)
        if isinstance(pieces, str):
            return pieces
        lowered.append(pieces)
    firsts, rows_start_at_zero = first_flags(
        [piece.rows for pieces in lowered for piece in pieces], layout.row_tokens
    )
    lasts = last_flags([piece.rows for pieces in lowered for piece in pieces])
    flags = list(zip(firsts, lasts, strict=True))
    steps = []
    for index, (offsets, pieces) in enumerate(zip(layout.offsets, lowered, strict=True)):
        steps.append(_step(layout, rank, index, offsets, pieces, flags))
        flags = flags[len(pieces) :]
    finished = [launch.rows for step in steps for launch in step.launches if launch.last]
    return Plan(
        rank,
        layout.world_size,
        layout.tokens,
        min(layout.slots, max(1, len(steps) - 1)),
        tuple(steps),
        rows_start_at_zero,
        without(Range(0, layout.row_tokens), finished),
        None if layout.queries is None else layout.row_tokens,
        layout.documents is not None,
    )


_plan = lru_cache(maxsize=1024)(_made)
_plan_of_documents = lru_cache(maxsize=64)(_made)
"""Fewer, because they are larger, and each batch has others."""


def plans(layout: Layout, able: Abilities) -> tuple[Plan, ...] | str:
    """What every rank does; or why it cannot be, if only one rank's part cannot.

    A rank may need no window block where its neighbour does: asked about its own part alone it
    would start, and wait for a neighbour that has refused.
    """
    return (_plans if layout.documents is None else _plans_of_documents)(layout, able)


def _all_made(layout: Layout, able: Abilities) -> tuple[Plan, ...] | str:
    of_steps = []
    for rank in range(layout.world_size):
        lowered = plan(layout, rank, able)
        if isinstance(lowered, str):
            return lowered
        of_steps.append(lowered)
    return tuple(of_steps)


_plans = lru_cache(maxsize=256)(_all_made)
_plans_of_documents = lru_cache(maxsize=8)(_all_made)


def lone_plan(rows: Spans, keys: Spans, band: Band, able: Abilities) -> Plan | str:
    """The plan of a single rank that holds all keys, whatever its rows are; or why there is none.

    rows, keys: global positions in stored order; either may be empty.
    """
    row_chunks, key_chunks = (chunks(s for s in spans if s.count) for spans in (rows, keys))
    pieces = lower(row_chunks, key_chunks, band, able)
    if isinstance(pieces, str):
        return pieces
    firsts, rows_start_at_zero = first_flags([piece.rows for piece in pieces], count(rows))
    lasts = last_flags([piece.rows for piece in pieces])
    first_keys, keys_start_at_zero = first_flags([piece.keys for piece in pieces], count(keys))
    launches = tuple(
        Launch(piece.rows, piece.keys, piece.block, *flags)
        for piece, *flags in zip(pieces, firsts, lasts, first_keys, strict=True)
    )
    unfinished = without(Range(0, count(rows)), [x.rows for x in launches if x.last])
    step = Step((), (), launches, 0, keys_start_at_zero)
    return Plan(0, 1, count(rows), 1, (step,), rows_start_at_zero, unfinished)


def _one_launch(layout: Layout, rank: int, able: Abilities) -> Plan | str:
    if not able.gathers and able.packs and layout.documents is not None:
        return _one_pack(layout, rank, able)
    if not able.gathers:
        return "it has no launch over gathered keys (schedule 'gather' needs none)"
    rows, remote = layout.rows(rank), tuple(range(1, layout.world_size))
    fetches = fetches_of(layout, rank, remote, in_turn=True)
    keys = [(OWN, chunk) for chunk in layout.chunks(rank)]
    for piece, fetch in enumerate(fetches, 1):
        keys += [(piece, chunk) for chunk in landed(layout, fetch)]
    of_batch = layout.documents is not None
    place = None if layout.room is None else layout.room.place(layout, rank, able)
    whole = gathered(
        rows, keys, layout.band, join=not able.positions, of_batch=of_batch, place=place
    )
    own = Step((), (), (), 0, keys_start_at_zero=False)
    step = Step(fetches, sends_of(layout, rank, remote, in_turn=True), (), 0, False, whole)
    queries = None if layout.queries is None else layout.row_tokens
    where = rank, layout.world_size, layout.tokens, 1
    return Plan(*where, (own, step), False, (), queries, of_batch)


def _one_pack(layout: Layout, rank: int, able: Abilities) -> Plan | str:
    """One packed call over own and landed keys, when all have landed."""
    if layout.striped:  # on all ranks alike, whatever their chunks are
        return "it takes packed documents, and rows of stripes are none (schedule 'steps' is right)"
    remote = tuple(range(1, layout.world_size))
    fetches = fetches_of(layout, rank, remote, in_turn=True)
    keys = list(layout.chunks(rank))
    for fetch in fetches:
        keys += [_behind(chunk, layout.tokens) for chunk in landed(layout, fetch)]
    made = whole_packs(layout.rows(rank), keys, layout.band, by_index=able.index_alibi)
    sends = sends_of(layout, rank, remote, in_turn=True)
    own = Step((), (), (), 0, keys_start_at_zero=True)
    step = Step(fetches, sends, (), 0, True, packs=made, with_own=True)
    return _of_packs(layout, rank, (own, step), 1)


def _behind(chunk: Chunk, tokens: int) -> Chunk:
    return replace(chunk, tokens=chunk.tokens.shifted(tokens))


def _by_packs(layout: Layout, rank: int) -> Plan:
    """Packed calls over the keys of each step."""
    steps, rows = [], layout.rows(rank)
    for index, offsets in enumerate(layout.offsets):
        step = _step(layout, rank, index, offsets, (), [])
        keys = layout.chunks(rank)
        if index:
            keys = tuple(chunk for fetch in step.fetches for chunk in landed(layout, fetch))
        made = packs(rows, keys, layout.band)
        steps.append(replace(step, packs=made, keys_start_at_zero=True))
    slots = min(layout.slots, max(1, len(steps) - 1))
    return _of_packs(layout, rank, tuple(steps), slots)


def _of_packs(layout: Layout, rank: int, steps: tuple[Step, ...], slots: int) -> Plan:
    """Calls are merged into rows that start without anything, for many see no key."""
    numbered, before = [], 0
    for step in steps:
        calls = enumerate(step.packs, before)
        made = tuple(replace(x, number=n * layout.world_size + rank) for n, x in calls)
        numbered.append(replace(step, packs=made))
        before += len(made)
    rows = Range(0, layout.row_tokens)
    queries = None if layout.queries is None else layout.row_tokens
    where = rank, layout.world_size, layout.tokens, slots
    return Plan(*where, tuple(numbered), True, (rows,), queries, of_batch=True)


def _step(
    layout: Layout, rank: int, index: int, offsets: tuple[int, ...], pieces: tuple[Cut, ...],
    flags: list[tuple[bool, bool]],
) -> Step:  # fmt: skip
    fetches = () if index == 0 else fetches_of(layout, rank, offsets)
    landing = layout.tokens if index == 0 else sum(len(f.tokens) for f in fetches)
    first_keys, keys_start_at_zero = first_flags([piece.keys for piece in pieces], landing)
    launches = [
        Launch(piece.rows, piece.keys, piece.block, first, last, first_key)
        for piece, (first, last), first_key in zip(pieces, flags, first_keys, strict=False)
    ]
    return Step(
        fetches,
        () if index == 0 else sends_of(layout, rank, offsets),
        tuple(launches),
        max(0, index - layout.slots + 1) if index > layout.slots else 0,
        keys_start_at_zero,
    )


def _pieces(
    layout: Layout, rank: int, offsets: tuple[int, ...], able: Abilities
) -> tuple[Cut, ...] | str:
    """The launches over the keys of the ranks at `offsets`."""
    rows = layout.rows(rank)
    if offsets == (0,):
        return lower(rows, layout.chunks(rank), layout.band, able)
    keys = [chunk for fetch in fetches_of(layout, rank, offsets) for chunk in landed(layout, fetch)]
    return lower(rows, keys, layout.band, able)
