"""A drawn call of packed documents asked on all ranks of a ring, and whether the answers are right.

The truth is `truth`'s, document by document over the whole packed sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

import ring_attn_bench
from ring_attn_bench import RingContext, RingOptions
from tests.distributed.pool import Raised, Ring
from tests.hostile.ring_mistakes import DIFFERENCES, MISTAKES
from tests.hostile.rings import CHOSEN, Case
from tests.hostile.truth import Answer, attention, packed


def arguments(case: Case, rank: int, tensors: dict[str, Tensor]) -> dict[str, object]:
    """What a rank's call is given."""
    told: dict[str, object] = {
        "causal": case.causal, "window_size": case.window, "softcap": case.softcap,
        "softmax_scale": case.scale, "alibi_slopes": case.slopes, "sink": tensors.get("sink"),
        "return_attn_probs": case.probs, "backend": "reference",
        **{name: tensors[name] for name in "qkv"},
    }  # fmt: skip
    starts = torch.tensor(case.starts, dtype=torch.int32)
    if case.form == "llama3":
        names = "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "local_k_slice"
        prepare = ring_attn_bench.llama3_flash_attn_prepare_cu_seqlens
        prepared = prepare(starts, case.causal, rank, case.world_size)
        return told | dict(zip(names, prepared, strict=True)) | {"heads_k_stride": 1}
    if case.form != "own":
        local = starts // case.world_size
        return told | {"cu_seqlens": local, "max_seqlen": int(local.diff().max())}
    plain = case.partition not in CHOSEN and not case.uneven and case.used is None
    if plain and not case.as_value:
        return told | {"cu_seqlens": starts, "partition": case.partition}
    queries = {} if case.rows is None else {"queries": case.value("q")}
    return told | {"cu_seqlens": case.value("k")} | queries


def function_of(case: Case) -> Callable[..., object]:
    name = "ring_attn" if case.form == "own" else f"{case.form}_flash_attn"
    return getattr(ring_attn_bench, f"{name}_varlen_func")


def ask(ring: Ring, case: Case, mistake: str = "", wrong: Sequence[int] = ()) -> dict[str, Tensor]:
    """A rank's results; with a mistake in its arguments if it is one of `wrong`."""
    rank, inputs = ring.rank, case.inputs()
    at = {side: torch.tensor(case.places(side)[rank], dtype=torch.long) for side in "qk"}
    tensors = {name: _held(case, inputs[name][at["q" if name == "q" else "k"]]) for name in "qkv"}
    for name in "qkv":
        tensors[name].requires_grad_(name in case.needs[rank])
    sink = case.sinks
    if sink is not None:
        tensors["sink"] = sink.requires_grad_("qkv" in case.needs)
    given = arguments(case, rank, tensors)
    if rank in wrong:
        (MISTAKES | DIFFERENCES)[mistake](given, case, rank)
    settings = RingOptions(
        schedule=case.schedule, transport=case.transport, keep_keys=case.keep_keys
    )
    with RingContext(ring.group, settings) as context:
        found = function_of(case)(**given, context=context)
        out, lse = found[:2] if case.probs else (found, None)
        results = {"out": out} if lse is None else {"out": out, "lse": lse}
        upstream = [inputs["dout"][at["q"]], inputs["dlse"][:, at["q"]]][: len(results)]
        if out.requires_grad:
            torch.autograd.backward(list(results.values()), upstream)
    gradients = {f"d{name}": x.grad for name, x in tensors.items() if x.grad is not None}
    if wanted := {f"d{name}" for name, x in tensors.items() if x.requires_grad} - set(gradients):
        raise AssertionError(f"no {wanted}")
    return {name: x.detach() for name, x in (results | gradients).items()}


def _held(case: Case, x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1) if case.strided else x.clone()


def truth(case: Case) -> Answer:
    """Document by document, over the whole packed sequence."""
    inputs = {name: x.double() for name, x in case.inputs().items()}
    q, k, v, dout, dlse = (inputs[name] for name in ("q", "k", "v", "dout", "dlse"))
    keys = case.used_keys()
    rows = keys if case.rows is None else [slice(*ends) for ends in pairwise(case.rows)]
    apart = list(zip(rows, keys, strict=True))
    sink, slopes = case.sinks, case.slopes
    parts = [
        attention(
            q[None, i], k[None, j], v[None, j], dout[None, i], dlse[None, :, i],
            scale=case.dim**-0.5 if case.scale is None else case.scale, causal=case.causal,
            window=case.window, softcap=case.softcap, keep=None, dropout_p=0.0,
            slopes=None if slopes is None else slopes.double(),
            sink=None if sink is None else sink.double(),
        )
        for i, j in apart
    ]  # fmt: skip
    return packed(parts, apart, q, k, v)


def faults(case: Case, ranks: Sequence[dict[str, Tensor]]) -> list[str]:
    """What is wrong with what all ranks returned."""
    answer, wrong = truth(case), []
    places = {side: case.places(side) for side in "qk"}
    for side, held in places.items():
        if sorted(at for mine in held for at in mine) != list(range(case.whole(side))):
            wrong.append(f"a token of {side} is on no rank, or on two")
    for name in sorted({name for found in ranks for name in found}):
        if name == "dsink":
            whole = torch.stack([found[name].double() for found in ranks]).sum(0)
            exact = whole.to(case.dtype) if case.dtype is torch.float64 else whole.float()
            wrong.append(answer.fault(name, exact, case.dtype))
            continue
        held = places["k" if name in ("dk", "dv") else "q"]
        for found, at in zip(ranks, held, strict=True):
            if name in found:
                part = Answer(
                    {name: _at(answer.results[name], name, at)},
                    {name: _at(answer.sizes[name], name, at)}, answer.depth, answer.grain,
                )  # fmt: skip
                wrong.append(part.fault(name, found[name], case.dtype))
    return [fault for fault in wrong if fault]


def _at(x: Tensor, name: str, at: list[int]) -> Tensor:
    return x[:, at] if name == "lse" else x[at]


def refused(answers: Sequence[object]) -> list[str]:
    """What is wrong with ranks that are to refuse: each is to say so, in a sentence of ours."""
    wrong = []
    for rank, answer in enumerate(answers):
        if not isinstance(answer, Raised):
            wrong.append(f"rank {rank} took it")
        elif "RingAttnBenchError" not in answer.kinds:
            wrong.append(f"rank {rank}: {answer.traceback}")
        elif len(answer.text.split()) < 5:
            wrong.append(f"rank {rank}: {answer.text} is no sentence")
    return wrong
