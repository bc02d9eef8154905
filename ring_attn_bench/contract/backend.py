"""The contract that an attention kernel meets to be run by the ring. It knows nothing of ranks.

Shapes, here and in every backend: B batch, M rows (queries), N keys, H query heads, G key heads
(G divides H; head h reads key head h // (H // G)), D head dim of q and k, E head dim of v.

    q (B, M, H, D)   k (B, N, G, D)   v (B, N, G, E)   out, dout (B, M, H, E)   lse, delta (B, H, M)

They come in groups (`tensors`). Every one may be a view with any strides but a contiguous last dim;
lse and delta may be cut out of longer rows. The rows of a block are all of q and its keys all of k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

from ring_attn_bench.errors import shown
from ring_attn_bench.plan.block import Abilities, Alibi

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows, Running, Sums
    from ring_attn_bench.plan.block import Block, Form
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Documents, Problem, Score


class Backend(Protocol):
    """A kernel behind one seam: two calls, and an answer to "can you?" that comes before them.

    name: its name in the registry.
    forms: the blocks it can compute; the ring cuts everything else into these, or refuses.
    alibi: how it adds ALiBi's bias, if it can.
    needs_delta: whether `backward` reads `delta`; the ring then computes it, once for all launches.
    rounds_gradients: whether `backward` gives dq, dk, dv in the inputs' dtype; one that does not
        say so is taken to give them wider. A share that travels by itself is then sent as it is.
    drops_by_position: whether the weights that it keeps are those of `dropout.keep`; one that does
        not say so is taken to have a pattern of its own, which nobody else knows.
    worker_environment: by device type, environment variables that its process must start with.
    """

    name: str
    forms: frozenset[Form]
    alibi: Alibi
    needs_delta: bool
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]]

    def unsupported(self, problem: Problem) -> str | None:
        """Why the problem cannot be computed, or None. Asked once, before anything runs."""
        ...

    def version(self) -> str:
        """The version of the code that computes, for the records."""
        ...

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """Attention inside the block.

        A block that the ring makes has no row that sees nothing, unless its form is GENERAL.
        Returns out (B, M, H, E), in q's dtype or wider, and lse (B, H, M), float32 (float64 for
        float64 inputs), natural log, of the scaled (and capped and biased) scores. A row that
        sees no key has out 0 and lse -inf. A kernel whose own bias is by index is given slopes
        for it, and leaves what `launch` adds to `launch`.
        """
        ...

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """The block's share of dq, dk, dv, in q's dtype or wider.

        out, lse and delta are those of the whole row, over every key of the sequence, not of this
        block: with them the share is the exact summand
        (Dao 2023, FlashAttention-2, algorithm 2).
        """
        ...


@runtime_checkable
class PackedBackend(Backend, Protocol):
    """A kernel that also computes packed documents; T queries and S keys of all documents.

    q (T, H, D)   k (S, G, D)   v (S, G, E)   out, dout (T, H, E)   lse, delta (H, T)

    Starts rise from 0 or more to T and S or less, and no document is longer than is said. Tokens
    in no document may hold anything, and none of it may reach a document. What results hold
    there is of no meaning: whoever calls fills it in (`one_device/outside.py`).
    """

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """out (T, H, E) and lse (H, T); a query that sees no key has out 0 and lse -inf."""
        ...

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """In q's dtype or wider."""
        ...


@runtime_checkable
class AccumulatingBackend(Backend, Protocol):
    """A kernel that adds a block to what earlier blocks left, instead of giving its share back.

    That spares a ring a copy of every share, and a kernel that reads it again. Accumulators are
    float32 (float64 for float64 inputs) and exact: nothing is rounded to q's dtype on the way.
    """

    def forward_into(
        self,
        q: Tensor,
        keys: Keys,
        running: Running,
        block: Block,
        score: Score,
        *,
        first: bool,
    ) -> None:
        """Merges the block's attention into the running out and lse, in place.

        first: what they hold is of no meaning, and the block's own out and lse replace it; if
        there is a target, running.out may then be the target itself, in any dtype.
        A row that has seen no key yet has out 0 and lse -inf, before and after.
        """
        ...

    def backward_into(
        self,
        rows: Rows,
        keys: Keys,
        sums: Sums,
        block: Block,
        score: Score,
        *,
        first: bool,
        first_keys: bool,
        deterministic: bool,
    ) -> None:
        """Adds the block's share to the sums, in place; the other arguments as in `backward`.

        first: dq holds nothing yet, and is written. first_keys: so are dk and dv. What is written
        may have any dtype: that in which it travels, or q's where nothing else is added.
        """
        ...


class GatheringBackend(Backend, Protocol):
    """A kernel that takes the keys of many ranks in one launch, and waits in it for each piece.

    `gathered.Gathered` says what sees what; all masks, partitions and features of `unsupported`.
    Programs own rows (or keys), the heaviest first, and read no piece before its word of `arrived`
    is 1, own keys before any other. B, M, N and the rest as above; L landed tokens.
    """

    def gathered_forward(
        self, q: Tensor, keys: Gathering, where: Gathered, score: Score
    ) -> tuple[Tensor, Tensor]:
        """out and lse as `forward` has them, out in q's dtype; a row without keys: 0 and -inf."""
        ...

    def gathered_dkdv(
        self, rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
        *, own_first: bool,
    ) -> None:  # fmt: skip
        """Writes dk and dv of the own keys, and of the landed ones, in any dtype; 0 if unseen.

        own_first: whether own keys come before the landed ones, which may be on their way.
        """
        ...

    def gathered_dq(self, rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
        """dq (B, M, H, D) in q's dtype."""
        ...


def gathering(backend: Backend) -> GatheringBackend | None:
    """The backend if it takes gathered keys."""
    names = "gathered_forward", "gathered_dkdv", "gathered_dq"
    return cast("GatheringBackend", backend) if _has(type(backend), *names) else None


class TogetherBackend(GatheringBackend, Protocol):
    """One that makes dq beside dk and dv: faster, and of bits that may differ from call to call."""

    def gathered_backward(
        self, rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
        *, own_first: bool, leave: Callable[[], None],
    ) -> Tensor:  # fmt: skip
        """dq, as `gathered_dq`; all that `gathered_dkdv` writes is written, too.

        leave: is called once, when all that writes to `landed` is on the stream; what is put there
        later runs while it travels home, and waits for no piece.
        """
        ...


def together(backend: Backend) -> TogetherBackend | None:
    """The backend if it makes all gradients of gathered keys together."""
    if gathering(backend) is None or not _has(type(backend), "gathered_backward"):
        return None
    return cast("TogetherBackend", backend)


def packed(backend: Backend) -> PackedBackend | None:
    """The backend if it takes documents packed."""
    names = "packed_forward", "packed_backward"
    return cast("PackedBackend", backend) if _has(type(backend), *names) else None


class PackedIntoBackend(PackedBackend, Protocol):
    """A kernel that writes packed results where it is told: a call then fills in what is outside.

    Tokens in no document may lie before the first and behind the last; they are left alone.
    """

    def packed_forward_into(
        self, q: Tensor, keys: Keys, out: Tensor, lse: Tensor, documents: Documents, score: Score
    ) -> None:
        """Writes out (T, H, E), in q's dtype, and lse (H, T): those of every row of a document."""
        ...

    def packed_backward_into(
        self,
        rows: Rows,
        keys: Keys,
        sums: Sums,
        documents: Documents,
        score: Score,
        *,
        deterministic: bool,
    ) -> None:
        """Writes the sums, in q's dtype: those of every token of a document."""
        ...


def packed_into(backend: object) -> PackedIntoBackend | None:
    """The backend if it writes packed results where it is told."""
    kind: type = type(backend)
    names = "packed_forward_into", "packed_backward_into"
    return cast("PackedIntoBackend", backend) if _has(kind, *names) else None


def accumulating(backend: Backend) -> AccumulatingBackend | None:
    """The backend if it accumulates."""
    names = "forward_into", "backward_into"
    return cast("AccumulatingBackend", backend) if _has(type(backend), *names) else None


@lru_cache(maxsize=128)
def _has(kind: type, *names: str) -> bool:
    # as isinstance with the protocol finds, which takes the host 25 us each time
    return all(callable(getattr(kind, name, None)) for name in names)


def as_reason(answer: object, asked: str = "unsupported") -> str | None:
    """What a backend answered when it was asked so; what is no answer is a reason, and says so."""
    if answer is None or (isinstance(answer, str) and answer):
        return answer
    return f"its {asked}() answered {shown(answer)}, which is neither a reason nor None"


def reason_against(backend: Backend, problem: Problem) -> str | None:
    """Why it does not compute the problem, or None; the one way to ask it."""
    return as_reason(backend.unsupported(problem))


def rounds_gradients(backend: Backend) -> bool:
    """Whether `backward` gives gradients in the inputs' dtype, as far as the backend says."""
    return bool(getattr(backend, "rounds_gradients", False))


def drops_by_position(backend: Backend) -> bool:
    """Whether the weights that it keeps are those of `dropout.keep`, as far as it says."""
    return bool(getattr(backend, "drops_by_position", False))


def is_interpreted(backend: object) -> bool:
    """Whether it says that its kernels run in an interpreter: right numbers, meaningless speeds.

    Most have no interpreter and nothing to say.
    """
    ask: Callable[[], bool] = getattr(backend, "interpreted", lambda: False)
    return ask()


def abilities(
    backend: Backend, *, alibi: bool, dropout: bool = False, packs: bool = False
) -> Abilities:
    """The blocks that a backend can be given, with or without ALiBi's bias and dropout.

    packs: whether documents may come to it packed.
    """
    return Abilities(
        backend.forms,
        alibi and backend.alibi is Alibi.INDEX,
        gathers=gathering(backend) is not None,
        positions=alibi or dropout,
        rounds=rounds_gradients(backend),
        packs=packs,
    )
