"""Calls of the public functions, drawn from a seed: right ones, of which some arguments are odd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import torch

from tests.hostile import caches, packs
from tests.hostile.values import ODD, ODD_TENSORS, made

RING = [
    f"{kind}ring_flash_attn{form}_func"
    for kind in ("", "zigzag_", "triton_")
    for form in ("", "_kvpacked", "_qkvpacked")
] + [f"stripe_flash_attn{form}_func" for form in ("", "_kvpacked", "_qkvpacked")]
REGISTRY = {
    "load": "backend", "backend_class": "backend", "load_contestant": "backend",
    "contestant_class": "backend", "check_known": "backend", "is_peer": "backend",
    "load_peer": "peer", "peer_class": "peer", "transport_class": "p2p", "check_transport": "p2p",
}  # fmt: skip
HALVES = "torch.float16", "torch.bfloat16"
DTYPES = {
    "cpu": ("torch.float32",) * 3 + ("torch.float64", *HALVES),
    "cuda": ("torch.float32", "torch.float64", *HALVES * 2),
}
"""By the default device, as often as it stands here: some kernels know halves alone."""
PARTITIONS = ("contiguous", "zigzag", "striped")
SPOILED = (0, 0, 0, 1, 1, 1, 1, 1, 2, 3)
"""How many arguments of a call are odd, as often as it stands here."""


@dataclass(frozen=True)
class Call:
    """A function by name, and its arguments as text. good: what odd ones were before, by name."""

    function: str
    arguments: dict[str, str]
    good: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={text}" for name, text in self.arguments.items())
        return f"{self.function}({given})"

    def mended(self, name: str) -> Call:
        """The same with one argument as it was."""
        others = {odd: text for odd, text in self.good.items() if odd != name}
        return replace(self, arguments={**self.arguments, name: self.good[name]}, good=others)


def drawn(random: Random, backends: tuple[str, ...]) -> Call:
    """The next call."""
    kind = random.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    call = _KINDS[kind][1](random, backends)
    if "attn" in call.function and random.random() < 0.1:
        return _spoiled_alike(random, call)
    return _spoiled(random, call, random.choice(SPOILED))


def _spoiled(random: Random, call: Call, count: int) -> Call:
    arguments, good = dict(call.arguments), {}
    for name in random.sample(list(arguments), min(count, len(arguments))):
        good[name] = arguments[name]
        text = _odd(random, name, arguments[name])
        while not _can_be_made(text):  # a tensor of integers that needs a gradient, say
            text = _odd(random, name, arguments[name])
        arguments[name] = text
    return Call(call.function, arguments, good)


def _spoiled_alike(random: Random, call: Call) -> Call:
    """The same becomes of all tensors that tokens are in."""
    good = {name: text for name, text in call.arguments.items() if name in _OF_TOKENS}
    while True:
        text = random.choice(ODD_TENSORS)
        odd = {name: f"(lambda x: {text})({x})" for name, x in good.items()}
        if all(map(_can_be_made, odd.values())):
            return Call(call.function, call.arguments | odd, good)


_OF_TOKENS = ("q", "k", "v", "kv", "qkv")


def _can_be_made(text: str) -> bool:
    try:
        made(text)
    except Exception:
        return False
    return True


def _odd(random: Random, name: str, good: str) -> str:
    own = _OWN.get(name, ())
    if own and random.random() < 0.5:
        return random.choice(own)
    if ("randn(" in good or "starts(" in good) and random.random() < 0.8:
        text = random.choice(ODD_TENSORS)
        if "shards" in name:
            return f"[(lambda x: {text})({good}[0]), *{good}[1:]]"
        return f"(lambda x: {text})({good})"
    return random.choice(ODD)


_OWN = {
    "dropout_p": ("0.1", "1.0", "-0.1", "1.5", "1", "1 - 2**-53", "np.float32(0.25)"),
    "softmax_scale": ("0.0", "-0.3", "-1", "20", "1e4", "np.float32(0.3)", "True"),
    "softcap": ("2", "-1.0", "1e-6", "1e6", "np.float16(2)", "5e-324"),
    "causal": ("1", "np.True_", "'True'", "torch.tensor(True)"),
    "window_size": ("[1, 2]", "(0, 0)", "(-5, 2)", "(2**31, 2**40)", "(2**31 - 2, 0)",
                    "np.array([1, 0])", "torch.tensor([1, 2])", "(1, torch.tensor(2))", "3",
                    "(2**63, 1)", "iter((1, 2))", "(-2**70, 2**70)", "(np.int8(1), True)"),
    "alibi_slopes": ("torch.zeros(0)", "torch.full((2,), float('nan'))", "torch.ones(2).double()",
                     "torch.full((2,), 1e38)", "leaf(torch.ones(2))", "torch.ones(1)",
                     "torch.ones(2)[::2]", "torch.ones(1).expand(2)", "torch.ones(2, 2).T"),
    "sink": ("torch.full((2,), float('-inf'))", "torch.full((2,), float('nan'))",
             "torch.full((2,), float('inf'))", "torch.ones(2).long()", "torch.ones(2).half()",
             "leaf(torch.ones(2).double())", "torch.ones(1).expand(2)", "torch.ones(2, 1)"),
    "cu_seqlens_q": ("starts(0)", "starts(0, 5, 3)", "starts(1, 5)", "starts(0, 10**9)",
                     "starts(0, -1)", "starts(-1, 0)", "starts(0, 2, dtype=torch.int64)",
                     "starts(0, 1, 2, 3)", "starts(0.0, 2.0, dtype=torch.float32)"),
    "max_seqlen_q": ("-1", "0", "1", "10**9", "2**31", "2**63", "10**30", "np.int64(9)",
                     "torch.tensor(9)", "9.0", "'9'"),
    "dropout_seed": ("0", "2**63 - 1", "2**63", "-1", "np.int64(3)", "torch.tensor(3)", "3.0"),
    "backend": ("'refrence'", "'peer:nothing'", "'peer:'", "'auto'", "None", "''", "'aten '",
                "np.array(['reference', 'aten'])", "np.array(['aten'])", "'flex'", "Eager()"),
    "partition": ("'Zigzag'", "'zigzag '", "b'zigzag'", "np.array(['zigzag'])", "None"),
    "dim": ("-5", "5", "0", "1", "2", "-1", "np.int64(1)", "1.0", "10**30", "True"),
    "rank": ("-1", "5", "1", "10**30", "np.int64(0)", "1.0", "True"),
    "world_size": ("0", "-1", "1", "3", "10**12", "10**30", "np.int64(2)", "2.0", "True"),
    "seqlen": ("10**30", "2**62", "2**63", "10**15", "-8", "0", "7", "np.int64(8)", "8.0", "'8'"),
    "device": ("'meta'", "'cuda:99'", "'nowhere'", "torch.device('meta')", "-1", "0", "'cpu:7'"),
    "block_table": ("torch.zeros(1, 1)", "0", "False", "Stubborn()"),
    "group": ("dist.group.WORLD", "1", "[0]", "dist.GroupMember.NON_GROUP_MEMBER"),
    "context": ("object()", "RingContext", "'zigzag'"),
    "slots": ("0", "-1", "1", "'auto'", "10**30", "True", "2.0", "np.int64(2)"),
    "grouping": ("(0,)", "(1, 2)", "[1, 2]", "(True,)", "(-1,)", "'auto'", "None", "()", "(1.0,)",
                 "(np.int64(1),)", "np.array([1, 2])", "iter((1,))", "(10**30,)"),
    "schedule": ("'Steps'", "'grouped'", "'gather'", "np.array(['steps'])", "Word('steps')"),
    "gradients": ("'float16'", "'input'", "torch.float32", "np.str_('input')"),
    "handshake": ("1", "0", "None", "'yes'", "np.True_", "torch.tensor(True)"),
    "timeout": ("5", "datetime.timedelta(0)", "datetime.timedelta(-1)", "datetime.timedelta.max",
                "datetime.timedelta(microseconds=1)", "float('nan')"),
    "options": ("{}", "'auto'", "RingOptions(slots=3)", "RingOptions(slots=10**30)"),
}  # fmt: skip
"""By argument, what is wrong or odd for it alone."""
for _name in ("cu_seqlens", "max_seqlen"):
    _OWN[f"{_name}_k"] = _OWN[_name] = _OWN[f"{_name}_q"]
_OWN["s_aux"] = _OWN["learnable_sink"] = _OWN["sink"]
_OWN["seqused_k"] = ("starts(0)", "starts(1, 9)", "starts(-1)", "starts(1, 1, dtype=torch.int64)",
                     "starts(2, 0)", "starts(1)[:, None]")  # fmt: skip
_OWN |= caches.OWN | {"block_table": _OWN["block_table"] + caches.OWN["block_table"]}
_OWN |= {name: _OWN.get(name, ()) + own for name, own in packs.OWN.items()}


# right calls


def _flag(random: Random) -> str:
    return random.choice(("True", "False"))


def _options(random: Random, heads: int, batch: int, backends: tuple[str, ...]) -> dict[str, str]:
    """Some of the options that all attention functions have."""
    every = {
        "dropout_p": random.choice(("0.0", "0.0", "0.3")),
        "softmax_scale": random.choice(("None", "0.3", "1.0", "-0.5")),
        "causal": _flag(random),
        "window_size": random.choice(("(-1, -1)", "(2, 0)", "(1, 2)", "(-1, 1)", "(3, -1)")),
        "softcap": random.choice(("0.0", "0.0", "1.5")),
        "alibi_slopes": random.choice(
            ("None", "None", f"0.5 ** randn(7, {heads}).abs()",
             f"0.5 ** randn(8, {batch}, {heads}).abs()")
        ),
        "deterministic": _flag(random),
        "return_attn_probs": _flag(random),
        "sink": random.choice(("None", "None", f"leaf(randn(9, {heads}))", f"randn(9, {heads})")),
        "dropout_seed": random.choice(("3", "2**40 + 1")),
    }  # fmt: skip
    chosen = random.sample(list(every), random.randrange(5))
    if "dropout_p" in chosen:
        chosen.append("dropout_seed")
    options = {name: every[name] for name in every if name in chosen}
    return options | {"backend": repr(random.choice(backends + 2 * backends[:1]))}


@dataclass(frozen=True)
class _Shapes:
    batch: int
    rows: int
    keys: int
    heads: int
    groups: int
    dim: int
    dim_v: int
    dtype: str

    @classmethod
    def drawn(cls, random: Random, *, square: bool) -> _Shapes:
        groups, rows, dim = random.choice((1, 1, 2)), random.randint(1, 9), random.choice((8, 16))
        keys = rows if square or random.random() < 0.5 else random.randint(1, 9)
        heads = groups * random.choice((1, 2))
        dim_v = dim if random.random() < 0.8 else 24 - dim
        batch = random.randint(1, 2)
        place = torch.get_default_device().type
        match random.randrange(40):  # what is odd of all tensors together
            case 0:
                dim = dim_v = random.choice((0, 1, 5, 7, 257, 320))
            case 1:
                batch = 0
            case 2:
                heads = groups = 0
            case 3:
                rows, keys = random.choice(((0, 0), (0, keys), (rows, 0)))
        return cls(batch, rows, keys, heads, groups, dim, dim_v, random.choice(DTYPES[place]))

    def tensor(self, random: Random, seed: int, *shape: int) -> str:
        text = f"randn({seed}, {', '.join(map(str, shape))}, dtype={self.dtype})"
        return f"leaf({text})" if random.random() < 0.7 else text


def _form(random: Random) -> str:
    return random.choice(("", "", "", "kvpacked_", "qkvpacked_"))


def _tensors(
    random: Random, s: _Shapes, form: str, rows: tuple[int, ...], keys: tuple[int, ...]
) -> dict[str, str]:
    """q, k and v, packed as the form says; rows, keys: the dims before heads."""
    if form == "qkvpacked_":
        return {"qkv": s.tensor(random, 1, *keys, 3, s.heads, s.dim)}
    q = {"q": s.tensor(random, 1, *rows, s.heads, s.dim)}
    if form == "kvpacked_":
        return q | {"kv": s.tensor(random, 2, *keys, 2, s.groups, s.dim)}
    return q | {
        "k": s.tensor(random, 2, *keys, s.groups, s.dim),
        "v": s.tensor(random, 3, *keys, s.groups, s.dim_v),
    }


def _dense(random: Random, backends: tuple[str, ...]) -> Call:
    s, form = _Shapes.drawn(random, square=False), _form(random)
    tensors = _tensors(random, s, form, (s.batch, s.rows), (s.batch, s.keys))
    options = _options(random, s.heads, s.batch, backends)
    if not form:
        options = _renamed(random, options)
    return Call(f"flash_attn_{form}func", tensors | options)


def _packed(random: Random, backends: tuple[str, ...]) -> Call:
    s, form = _Shapes.drawn(random, square=False), _form(random)
    lengths = [[random.randint(0, 5) for _ in range(s.batch)] for _ in "qk"]
    at = [[sum(side[:i]) for i in range(s.batch + 1)] for side in lengths]
    tensors = _tensors(random, s, form, (at[0][-1],), (at[1][-1],))
    for side, starts, own in zip("qk", at, lengths, strict=True):
        tensors[f"cu_seqlens_{side}"] = f"starts({', '.join(map(str, starts))})"
        tensors[f"max_seqlen_{side}"] = str(max(own, default=0) + random.choice((0, 0, 3)))
    options = _options(random, s.heads, s.batch, backends)
    if form == "qkvpacked_":
        for name in ("cu_seqlens", "max_seqlen"):
            del tensors[f"{name}_q"]
            tensors[name] = tensors.pop(f"{name}_k")
    elif not form:
        options = _renamed(random, options)
        if random.random() < 0.1:
            options["block_table"] = "None"
        if random.random() < 0.2 and s.batch:
            used = ", ".join(str(random.randint(0, count)) for count in lengths[1])
            options["seqused_k"] = f"starts({used})"
    return Call(f"flash_attn_varlen_{form}func", tensors | options)


def _renamed(random: Random, options: dict[str, str]) -> dict[str, str]:
    """A sink may go by another name."""
    name = random.choice(("sink", "sink", "s_aux", "learnable_sink"))
    return {name if key == "sink" else key: text for key, text in options.items()}


def _cached(random: Random, backends: tuple[str, ...]) -> Call:
    s = _Shapes.drawn(random, square=False)
    return Call(*caches.drawn(random, s, _options(random, s.heads, s.batch, backends)))


def _ring(random: Random, backends: tuple[str, ...]) -> Call:
    function = random.choice(["ring_attn_func", *RING])
    s = _Shapes.drawn(random, square=True)
    tokens = 2 * s.rows if "zigzag" in function or function == "ring_attn_func" else s.rows
    if "_qkvpacked" in function:
        tensors = {"qkv": s.tensor(random, 1, s.batch, tokens, 3, s.heads, s.dim)}
    elif "_kvpacked" in function:
        tensors = {
            "q": s.tensor(random, 1, s.batch, tokens, s.heads, s.dim),
            "kv": s.tensor(random, 2, s.batch, tokens, 2, s.groups, s.dim),
        }
    else:
        tensors = {
            "q": s.tensor(random, 1, s.batch, tokens, s.heads, s.dim),
            "k": s.tensor(random, 2, s.batch, tokens, s.groups, s.dim),
            "v": s.tensor(random, 3, s.batch, tokens, s.groups, s.dim_v),
        }
    options = _options(random, s.heads, s.batch, backends)
    if function.startswith("triton_") and "triton" not in backends:
        options.pop("backend")  # it is refused, as it is unavailable
    if function == "ring_attn_func":
        options["partition"] = repr(random.choice(PARTITIONS))
    for name in ("group", "context"):
        if random.random() < 0.2:
            options[name] = "None"
    return Call(function, tensors | options)


def _ring_documents(random: Random, backends: tuple[str, ...]) -> Call:
    s, form = _Shapes.drawn(random, square=True), _form(random)

    def tensors(rows: tuple[int, ...], keys: tuple[int, ...]) -> dict[str, str]:
        return _tensors(random, s, form, rows, keys)

    options = _options(random, s.heads, s.batch, backends)
    return Call(*packs.drawn(random, options, tensors, form))


def _documents_dealt(random: Random, _: tuple[str, ...]) -> Call:
    return Call(*packs.dealing(random))


def _dealt(random: Random, _: tuple[str, ...]) -> Call:
    world, partition = random.randint(1, 4), repr(random.choice(PARTITIONS))
    each = 2 * random.randint(1, 3)
    shape = f"2, {each * world}, 3"
    rank = {"rank": str(random.randrange(world)), "world_size": str(world), "partition": partition}
    function = random.choice(("shard", "unshard", "join_shards", "position_ids"))
    match function:
        case "shard":
            arguments = {"x": f"leaf(randn(1, {shape}))", **rank, "dim": "1"}
        case "unshard":
            arguments = {"x": f"leaf(randn(1, {shape}))", "partition": partition, "group": "None",
                         "dim": "1"}  # fmt: skip
        case "join_shards":
            parts = ", ".join(f"randn({seed}, 2, {each}, 3)" for seed in range(world))
            arguments = {"shards": f"[{parts}]", "partition": partition, "dim": "1"}
        case _:
            arguments = {"seqlen": str(each * world), **rank, "device": "None"}
    return Call(function, arguments)


def _settings(random: Random, _: tuple[str, ...]) -> Call:
    if random.random() < 0.4:
        return Call("RingContext", {"group": "None", "options": "RingOptions()", "timeout": "None"})
    every = {
        "transport": "'p2p'", "slots": "2", "grouping": "(1, 2)", "gradients": "'input'",
        "handshake": "True", "schedule": "'auto'",
    }  # fmt: skip
    return Call("RingOptions", {n: every[n] for n in random.sample(list(every), 3)})


def _named(random: Random, backends: tuple[str, ...]) -> Call:
    function = random.choice(list(REGISTRY))
    kind = REGISTRY[function]
    name = {"backend": random.choice(backends), "peer": "peer:torch_cp[math]"}.get(kind, kind)
    return Call(function, {"name": repr(name)})


_KINDS: dict[str, tuple[int, Callable[[Random, tuple[str, ...]], Call]]] = {
    "one device": (30, _dense), "documents": (25, _packed), "a ring": (25, _ring),
    "a cache": (20, _cached), "documents on a ring": (25, _ring_documents),
    "dealing documents": (10, _documents_dealt),
    "dealing": (10, _dealt), "settings": (5, _settings), "names": (5, _named),
}  # fmt: skip
"""By kind, how often and how it is drawn."""
