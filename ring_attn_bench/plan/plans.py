"""A pass of the ring as data: what one rank fetches, sends, launches, gives back and receives.

A plan is a row of steps. Step 0 is the rank's own keys; each later step brings the keys of one or
more other ranks, straight from their owners: at offset i rank r reads from rank r - i, so a step
is a permutation of the ranks. How many offsets share a step is the grouping: (1, 1, 1) is the
classic ring, (3,) a gather, anything between a grouped ring; the code that runs it is the same.

Gradients go the way of the keys, backwards: each `Fetch` of a step is a `dk, dv` partial that
this rank gives to the owner when the step's launches are done, and each `Send` is one that the
reader gives to this rank. So the plan does not list them again.

Pure integers: no tensor, no process group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.block import Abilities, Block
from ring_attn_bench.plan.gathered import OWN, Gathered, gathered
from ring_attn_bench.plan.lower import Chunk, Cut, chunks, lower, visible_keys
from ring_attn_bench.plan.partition import Partition
from ring_attn_bench.plan.positions import Band, Range, Span, Spans, count, part
from ring_attn_bench.plan.touched import first_flags, last_flags, without


@dataclass(frozen=True, slots=True)
class Fetch:
    """Keys and values that a rank needs: `tokens` of `owner`'s shard, landing at token `at`."""

    owner: int
    tokens: Range
    at: int

    @property
    def landing(self) -> Range:
        """Where the tokens land, in the landing area of their step."""
        return Range(self.at, self.at + len(self.tokens))


@dataclass(frozen=True, slots=True)
class Send:
    """Keys and values that a rank owes: `tokens` of its own shard, to `reader`."""

    reader: int
    tokens: Range


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

    @cached_property
    def landing_tokens(self) -> int:
        """The size of the step's landing area, in tokens."""
        return sum(len(fetch.tokens) for fetch in self.fetches)


@dataclass(frozen=True)
class Plan:
    """What one rank does in a forward or a backward pass.

    tokens: the rank's local length.
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
    def writes_rows_once(self) -> bool:
        """Whether no two launches have a row in common, nor any row none."""
        return all(launch.first and launch.last for launch in self.launches)

    @cached_property
    def merges_once(self) -> bool:
        """Whether the first launch has all rows, and no row is in two of the others.

        What a kernel gives for it can then be what the others are merged into, as it is.
        """
        if not self.launches or self.rows_start_at_zero:
            return False
        first, *others = self.launches
        return len(first.rows) == self.tokens and all(launch.last for launch in others)

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
        return not self.gathers and all(
            launch.first_keys for step in self.steps[1:] for launch in step.launches
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
        return whole + sum(launch.block.area for launch in self.launches)

    @property
    def fetched_tokens(self) -> int:
        """Tokens of other ranks that this rank reads in one pass."""
        return sum(step.landing_tokens for step in self.steps)


@dataclass(frozen=True, slots=True)
class Layout:
    """Who holds what, and how a pass is cut into steps: everything a plan follows from.

    tokens: local length of every rank.
    slots: landing areas (2 is the classic ring; at least the number of steps is a full run-ahead).
    grouping: how many ranks' keys each remote step brings; None is one each.
    one_launch: whether the keys of all ranks, own ones too, are one launch's; grouping is then all.
    """

    partition: Partition
    world_size: int
    tokens: int
    band: Band
    slots: int = 2
    grouping: tuple[int, ...] | None = None
    one_launch: bool = False

    def __post_init__(self) -> None:
        self.partition.check_local_length(self.tokens)
        if self.slots < 1:
            raise InvalidArgument(f"slots is {self.slots}, but a ring needs at least 1.")
        remote = self.world_size - 1
        if self.grouping is not None and (
            sum(self.grouping) != remote or any(size < 1 for size in self.grouping)
        ):
            raise InvalidArgument(
                f"grouping {self.grouping} must be positive numbers that add up to the "
                f"{remote} other ranks."
            )

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """The ring offsets that each step brings; step 0 is the rank itself."""
        sizes = (1,) * (self.world_size - 1) if self.grouping is None else self.grouping
        starts = [1 + sum(sizes[:i]) for i in range(len(sizes))]
        remote = tuple(tuple(range(a, a + n)) for a, n in zip(starts, sizes, strict=True))
        return ((0,), *remote)

    def chunks(self, rank: int) -> tuple[Chunk, ...]:
        """The chunks of rank's shard."""
        return chunks(self.partition.spans(rank, self.world_size, self.tokens))


@lru_cache(maxsize=1024)
def plan(layout: Layout, rank: int, able: Abilities) -> Plan | str:
    """What `rank` does, for a kernel that can be given such blocks; or why that cannot be."""
    if layout.one_launch and layout.world_size > 1:
        return _one_launch(layout, rank, able)
    lowered = []
    for offsets in layout.offsets:
        pieces = _pieces(layout, rank, offsets, able)
        if isinstance(pieces, str):
            return pieces
        lowered.append(pieces)
    firsts, rows_start_at_zero = first_flags(
        [piece.rows for pieces in lowered for piece in pieces], layout.tokens
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
        without(Range(0, layout.tokens), finished),
    )


@lru_cache(maxsize=256)
def plans(layout: Layout, able: Abilities) -> tuple[Plan, ...] | str:
    """What every rank does; or why it cannot be, if only one rank's part cannot.

    A rank may need no window block where its neighbour does: asked about its own part alone it
    would start, and wait for a neighbour that has refused.
    """
    of_steps = []
    for rank in range(layout.world_size):
        lowered = plan(layout, rank, able)
        if isinstance(lowered, str):
            return lowered
        of_steps.append(lowered)
    return tuple(of_steps)


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
    if not able.gathers:
        return "it has no launch over gathered keys (schedule 'gather' needs none)"
    rows, remote = layout.chunks(rank), layout.offsets[1]
    fetches = _fetches(layout, rank, remote, in_turn=True)
    keys = [(OWN, chunk) for chunk in rows]
    for piece, fetch in enumerate(fetches, 1):
        keys += [(piece, chunk) for chunk in chunks(_spans_of(layout, fetch), fetch.at)]
    whole = gathered(rows, keys, layout.band, join=not able.positions)
    own = Step((), (), (), 0, keys_start_at_zero=False)
    step = Step(fetches, _sends(layout, rank, remote, in_turn=True), (), 0, False, whole)
    return Plan(rank, layout.world_size, layout.tokens, 1, (own, step), False, ())


def _step(
    layout: Layout, rank: int, index: int, offsets: tuple[int, ...], pieces: tuple[Cut, ...],
    flags: list[tuple[bool, bool]],
) -> Step:  # fmt: skip
    fetches = () if index == 0 else _fetches(layout, rank, offsets)
    landing = layout.tokens if index == 0 else sum(len(f.tokens) for f in fetches)
    first_keys, keys_start_at_zero = first_flags([piece.keys for piece in pieces], landing)
    launches = [
        Launch(piece.rows, piece.keys, piece.block, first, last, first_key)
        for piece, (first, last), first_key in zip(pieces, flags, first_keys, strict=False)
    ]
    return Step(
        fetches,
        () if index == 0 else _sends(layout, rank, offsets),
        tuple(launches),
        max(0, index - layout.slots + 1) if index > layout.slots else 0,
        keys_start_at_zero,
    )


def _pieces(
    layout: Layout, rank: int, offsets: tuple[int, ...], able: Abilities
) -> tuple[Cut, ...] | str:
    """The launches over the keys of the ranks at `offsets`."""
    rows = layout.chunks(rank)
    if offsets == (0,):
        return lower(rows, rows, layout.band, able)
    landed: list[Chunk] = []
    at = 0
    for fetch in _fetches(layout, rank, offsets):
        landed.extend(chunks(_spans_of(layout, fetch), at))
        at += len(fetch.tokens)
    return lower(rows, landed, layout.band, able)


def _spans_of(layout: Layout, fetch: Fetch) -> tuple[Span, ...]:
    spans = layout.partition.spans(fetch.owner, layout.world_size, layout.tokens)
    return part(spans, fetch.tokens)


@lru_cache(maxsize=4096)
def _fetches(
    layout: Layout, rank: int, offsets: tuple[int, ...], *, in_turn: bool = False
) -> tuple[Fetch, ...]:
    """What rank needs of the ranks at `offsets`: most widely seen first, so rows can share keys.

    in_turn: in the order of the offsets, so that at no time two ranks read from one.
    """
    needed = []
    rows = layout.chunks(rank)
    for offset in offsets:
        owner = (rank - offset) % layout.world_size
        for chunk in layout.chunks(owner):
            seen = visible_keys(rows, chunk, layout.band)
            if len(seen):
                readers = sum(len(visible_keys([row], chunk, layout.band)) > 0 for row in rows)
                needed.append((-readers, owner, seen.shifted(chunk.tokens.start)))
    if len(offsets) > 1 and not in_turn:
        needed.sort(key=lambda entry: entry[0])
    fetches: list[Fetch] = []
    at = 0
    for _, owner, tokens in needed:
        before = fetches[-1] if fetches else None
        if before and before.owner == owner and before.tokens.stop == tokens.start:
            fetches[-1] = Fetch(owner, Range(before.tokens.start, tokens.stop), before.at)
        else:
            fetches.append(Fetch(owner, tokens, at))
        at += len(tokens)
    return tuple(fetches)


def _sends(
    layout: Layout, rank: int, offsets: tuple[int, ...], *, in_turn: bool = False
) -> tuple[Send, ...]:
    """What the ranks that read from `rank` in this step will fetch, in their fetches' order."""
    sends = []
    for offset in offsets:
        reader = (rank + offset) % layout.world_size
        sends += [
            Send(reader, fetch.tokens)
            for fetch in _fetches(layout, reader, offsets, in_turn=in_turn)
            if fetch.owner == rank
        ]
    return tuple(sends)
