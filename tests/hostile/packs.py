"""Packed documents on a ring of one, and the values that they are dealt by: drawn, and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from random import Random

import torch
from torch import Tensor

import ring_attn_bench
from ring_attn_bench.plan.documents import DealtDocuments

PREPARE = "llama3_flash_attn_prepare_cu_seqlens"
VALUES = ("documents", "shard_documents", "document_position_ids", PREPARE)
PARTITIONS = ("contiguous", "zigzag", "striped", "head_tail", "balanced")

OWN = {
    "cu_seqlens": ("[0, 2]", "(0, 2, 2)", "[0, np.int64(2)]", "[0, 2.0]", "[0, None]", "[0, '2']",
                   "np.array([0, 2])", "[False, True]", "range(3)", "[0, 10**30]", "[0, -2]", "[0]",
                   "[]", "starts()", "[0, 10**12]",
                   "[3, 2]", "(0, 2**63)", "starts(0, 2)[None]", "starts(0, 2).bool()", "[[0, 2]]",
                   "starts(0, 2).to(torch.int16)", "documents([0, 2], 'zigzag', 1)",
                   "documents([0, 4], 'striped', 1, 8)", "documents([0, 8], 'contiguous', 2)",
                   "documents([0, 3], 'head_tail', 1, uneven=True)", "DealtDocuments"),
    "documents": ("[0, 2]", "starts(0, 2)", "documents([0, 2], 'zigzag', 1)",
                  "documents([0, 3, 9], 'balanced', 3, uneven=True)"),
    "seqused": ("[1]", "[0]", "[True]", "starts(1)", "starts(0, 0)", "[-1]", "[10**30]", "[]",
                "[1.0]", "np.array([1])"),
    "capacity": ("1", "2", "0", "-1", "10**30", "1.0", "True", "np.int64(3)", "'2'", "None"),
    "uneven": ("True", "1", "'no'", "None"),
    "heads_k_stride": ("1", "2", "0", "-1", "10**30", "1.0", "True", "np.int64(1)"),
    "local_k_slice": ("slice(0, 1)", "slice(np.array([0, 1]), 2)", "slice(Stubborn(), 1)",
                      "slice(np.int64(0), np.int64(2))", "slice(None)", "slice(0, 2, 1)", "None"),
    "partition": ("'balanced'", "'head_tail'", "'Zigzag'", "None", "b'zigzag'", "0",
                  "documents([0, 2], 'balanced', 1).partition", "np.array(['zigzag'])"),
}  # fmt: skip
OWN["queries"] = OWN["cu_seqlens"]


def beyond(x: Tensor, tokens: int) -> Tensor:
    """x with NaN where no document is."""
    x = x.clone()
    x[tokens:] = float("nan")
    return x


@lru_cache
def prepared(causal: bool, *starts: int) -> tuple[Tensor, Tensor, int, int, slice]:
    """What a ring of one prepares, once: tensors that belong together."""
    given = torch.tensor(starts, dtype=torch.int32)
    return ring_attn_bench.llama3_flash_attn_prepare_cu_seqlens(given, causal, 0, 1)


NAMES: Mapping[str, object] = {
    "beyond": beyond, "prepared": prepared, "DealtDocuments": DealtDocuments
}  # fmt: skip


# right calls


def drawn(
    random: Random,
    options: dict[str, str],
    tensors: Callable[[tuple[int, ...], tuple[int, ...]], dict[str, str]],
    form: str,
) -> tuple[str, dict[str, str]]:
    """A function and its arguments as text. tensors: q, k and v, of so many rows and keys."""
    own = random.random() < 0.5 and not form
    kind = random.choice(("ring", "zigzag_ring", "llama3"))
    function = "ring_attn_varlen_func" if own else f"{kind}_flash_attn_varlen_{form}func"
    pieces = 2 if function.startswith("zigzag") else 1
    count = random.choice((1, 1, 2, 3, 6))
    lengths = [pieces * random.choice((0, 1, 1, 2, 3, 5)) for _ in range(count)]
    lengths[0] += pieces * (not any(lengths) and "llama3" in function)
    ends = list(accumulate(lengths, initial=0))
    padding = 0 if "llama3" in function else random.choice((0, 0, 0, 1, 2, 4))
    tokens = ends[-1] + padding
    options = {name: x for name, x in options.items() if name != "alibi_slopes" or "8," not in x}
    if own:
        return function, _own(random, ends, lengths, tokens, options, tensors)
    given = _padded(tensors((tokens,), (tokens,)), ends[-1], padding)
    longest = str(max(lengths) + random.choice((0, 0, 3)))
    if "llama3" not in function:
        told = {"cu_seqlens": f"starts({', '.join(map(str, ends))})", "max_seqlen": longest}
        return function, given | told | options
    of = f"prepared({options.get('causal', 'False')}, {', '.join(map(str, ends))})"
    names = "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "local_k_slice"
    told = {name: f"{of}[{at}]" for at, name in enumerate(names)} | {"heads_k_stride": "1"}
    return function, given | told | options


def _own(
    random: Random,
    ends: list[int],
    lengths: list[int],
    tokens: int,
    options: dict[str, str],
    tensors: Callable[[tuple[int, ...], tuple[int, ...]], dict[str, str]],
) -> dict[str, str]:
    partition = random.choice(PARTITIONS)
    tokens = max(1, tokens)  # none at all are nobody's batch
    if partition == "zigzag":
        tokens += tokens % 2
    rows, rows_ends = tokens, None
    if random.random() < 0.2:
        rows_ends = list(accumulate((random.randint(0, 4) for _ in lengths), initial=0))
        rows = rows_ends[-1]
    told = {"cu_seqlens": _starts(random, ends, tokens, partition)}
    seqused = rows_ends is None and random.random() < 0.2
    if seqused or rows_ends is not None or partition in ("head_tail", "balanced"):
        used = f", seqused={[random.randint(0, x) for x in lengths]}" if seqused else ""
        told["cu_seqlens"] = f"documents({ends}, {partition!r}, 1, {tokens}{used})"
        if rows_ends is not None:
            told["queries"] = f"documents({rows_ends}, 'contiguous', 1, uneven=True)"
    else:
        told["partition"] = repr(partition)
    if random.random() < 0.3:
        told["max_seqlen"] = str(max(lengths) + random.choice((0, 3)))
    given = tensors((rows,), (tokens,))
    return (given if rows_ends else _padded(given, ends[-1], tokens - ends[-1])) | told | options


def _starts(random: Random, ends: list[int], tokens: int, partition: str) -> str:
    numbers = ", ".join(map(str, ends))
    return random.choice(
        (f"starts({numbers})", f"starts({numbers}, dtype=torch.int64)", f"[{numbers}]")
    )


def _padded(given: dict[str, str], end: int, padding: int) -> dict[str, str]:
    if not padding:
        return given
    return {name: _leaf_last(text, f"beyond({{}}, {end})") for name, text in given.items()}


def _leaf_last(text: str, around: str) -> str:
    inside = text.removeprefix("leaf(").removesuffix(")") if text.startswith("leaf(") else text
    made = around.format(inside)
    return f"leaf({made})" if text.startswith("leaf(") else made


def dealing(random: Random) -> tuple[str, dict[str, str]]:
    """One of the functions that make a value and deal by it."""
    world, partition = random.randint(1, 5), random.choice(PARTITIONS)
    lengths = [random.choice((0, 1, 2, 7, 30)) for _ in range(random.randint(1, 6))]
    ends = list(accumulate(lengths, initial=0))
    unit = 2 * world
    whole = max(unit, -(-ends[-1] // unit) * unit)
    uneven, used = random.random() < 0.4, [random.randint(0, x) for x in lengths]
    arguments = {
        "cu_seqlens": random.choice((str(ends), f"starts(*{ends})")), "partition": repr(partition),
        "world_size": str(world), "seqlen": "None" if uneven else str(whole),
        "causal": random.choice(("True", "False")), "uneven": str(uneven),
        "window_size": random.choice(("(-1, -1)", "(2, 0)", "(1, 3)")),
        "seqused": random.choice(("None", "None", str(used), f"starts(*{used})")),
    }  # fmt: skip
    function = random.choice((VALUES[0], *VALUES))
    if function == "documents":
        return function, arguments
    if function == PREPARE:
        ends[-1] = whole if uneven else ends[-1]  # else it may not be dealt, and is refused
        told = {"cu_seqlens": f"starts(*{ends})", "causal": arguments["causal"]}
        return function, {
            **told, "rank": str(random.randrange(world)), "world_size": str(world)
        }  # fmt: skip
    value = f"documents({', '.join(f'{name}={x}' for name, x in arguments.items())})"
    told = {"documents": value, "rank": str(random.randrange(world))}
    if function == "document_position_ids":
        return function, told | {"device": "None"}
    tokens = ends[-1] if uneven else whole
    return function, {"x": f"leaf(randn(1, {tokens}, 3))", **told, "dim": "0"}


# what they mean


def apart(given: Mapping[str, object]) -> list[tuple[slice, slice]]:
    """Where each document's rows and its used keys are, on a ring of one."""
    keys, used = _read(given.get("cu_seqlens", given.get("cu_seqlens_q")))
    if given.get("queries") is None:
        return [(slice(a, b), slice(a, b)) for a, b in _used(keys, used)]
    rows, _ = _read(given["queries"])
    return [(slice(*a), slice(*b)) for a, b in zip(pairwise(rows), pairwise(keys), strict=True)]


def _read(value: object) -> tuple[list[int], frozenset[int]]:
    if isinstance(value, DealtDocuments):
        return list(value.starts), value.void
    return [int(x) for x in value], frozenset()  # type: ignore[attr-defined]


def _used(starts: Sequence[int], void: frozenset[int]) -> list[tuple[int, int]]:
    return [ends for number, ends in enumerate(pairwise(starts)) if number not in void]


def made_wrong(given: Mapping[str, object], found: DealtDocuments) -> list[str]:
    """What is wrong with a value that `documents` made: every token is somewhere, once."""
    ends = [int(x) for x in given["cu_seqlens"]]  # type: ignore[attr-defined]
    ranks, wrong = int(given["world_size"]), []  # type: ignore[call-overload]
    if ranks > 1000 or ends[-1] > 10**5:
        return []  # nobody counts so far
    places = [
        [at for span in found.spans(rank) for at in span.positions()] for rank in range(ranks)
    ]
    whole = sorted(at for mine in places for at in mine)
    if whole != list(range(ranks * found.tokens)):
        wrong.append("a token is on no rank, or on two")
    if any(len(mine) != found.tokens for mine in places):
        wrong.append("a rank has more tokens than another")
    if any(found.padding(r) != sum(at >= ends[-1] for at in x) for r, x in enumerate(places)):
        wrong.append("padding is miscounted")
    if given.get("uneven") and sum(map(found.held, range(ranks))) != ends[-1]:
        wrong.append("tokens that are held are not those of the documents")
    used = given.get("seqused")
    counts = [b - a for a, b in pairwise(ends)] if used is None else map(int, used)  # type: ignore[call-overload]
    right = [(a, a + n) for a, n in zip(ends, counts, strict=False) if n]
    kept = [(a, b) for a, b in _used(found.starts, found.void) if a < b]
    if kept != right:
        wrong.append(f"documents are {kept}")
    if found.starts[-1] != ends[-1]:
        wrong.append(f"documents end at {found.starts[-1]}")
    return wrong


def prepared_wrong(given: Mapping[str, object], found: tuple[object, ...]) -> list[str]:
    """Token by token: each row's document is a row of both tensors, and its keys are in the
    slice."""
    starts, rank = given["cu_seqlens"].tolist(), int(given["rank"])  # type: ignore[attr-defined,call-overload]
    tokens = starts[-1] // int(given["world_size"])  # type: ignore[call-overload]
    q, k, longest_q, longest_k, keys = found
    rows, columns = (list(pairwise(x.tolist())) for x in (q, k))  # type: ignore[attr-defined]
    seen = []
    for (a, b), (c, d) in zip(rows, columns, strict=True):
        for row in range(a, b):
            last = tokens * rank + b if given["causal"] else None
            seen.append((tokens * rank + row, keys.start + c, keys.start + d, last))  # type: ignore[attr-defined]
    right = []
    for row in range(tokens * rank, tokens * (rank + 1)):
        start = max(x for x in starts[:-1] if x <= row)
        stop = min(x for x in starts if x > row)
        last = min(stop, tokens * (rank + 1))
        right.append((row, start, last if given["causal"] else stop,
                      last if given["causal"] else None))  # fmt: skip
    wrong = [] if seen == right else [f"{seen}, not {right}"]
    if (longest_q, longest_k) != tuple(max(b - a for a, b in x) for x in (rows, columns)):
        wrong.append("the longest are others")
    return wrong


def held(given: Mapping[str, object]) -> list[int]:
    """The places of a rank's tokens."""
    value, rank = given["documents"], int(given["rank"])  # type: ignore[call-overload]
    assert isinstance(value, DealtDocuments)
    places = [at for span in value.spans(rank) for at in span.positions()]
    return [at for at in places if at < value.starts[-1]] if value.uneven else places


def position_ids_wrong(given: Mapping[str, object], found: Tensor) -> list[str]:
    """Against where each token's document begins."""
    starts = given["documents"].starts  # type: ignore[attr-defined]
    right = [at - max(x for x in starts if x <= at) for at in held(given)]
    if found.is_meta:
        return [] if len(found) == len(right) else ["as many as there are not"]
    return [] if found.tolist() == right else [f"{found.tolist()}, not {right}"]
