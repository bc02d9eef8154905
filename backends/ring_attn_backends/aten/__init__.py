"""torch's own flash attention, called below SDPA: FlashAttention-2 on CUDA, a tiled loop on CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from ring_attn_backends.aten import cpu
from ring_attn_backends.shared import flash_2, flash_2_limits
from ring_attn_backends.shared.calls import ByCalls, FlashCall
from ring_attn_backends.shared.seeding import drawing_from, philox_state
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Alibi, Form
from ring_attn_bench.plan.problem import Problem

_ops = torch.ops.aten


class AtenBackend(ByCalls):
    """torch's own flash attention: FlashAttention-2 on CUDA, a tiled loop on CPU.

    Dropout, on CUDA, keeps (floor(255 * (1 - p)) + 1) / 256 of the weights: flash-attn 2's.
    """

    name = "aten"
    forms: frozenset[Form] = frozenset({Form.FULL, Form.CAUSAL})
    alibi = Alibi.NONE
    needs_delta = False
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        if torch.cuda.is_available() and _takes_windows():
            self.forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})

    def unsupported(self, problem: Problem) -> str | None:
        """What its operators have no argument for, and what their kernels were not built for."""
        if problem.softcap:
            return f"it has no softcap (softcap is {problem.softcap})"
        if problem.alibi:
            return "its backward has no ALiBi"
        if problem.device == "cpu":
            return cpu.unsupported(problem)
        if not torch.cuda.is_available():
            return "there is no CUDA device here"
        if not torch.backends.cuda.is_flash_attention_available():
            return f"torch {torch.__version__} was built without flash attention"
        return flash_2_limits.unsupported(problem) or flash_2_limits.build_refusal(self, problem)

    def version(self) -> str:
        """The version of torch, whose operator it is."""
        return f"torch {torch.__version__}"

    def run_forward(self, q: Tensor, keys: Keys, call: FlashCall) -> tuple[Tensor, Tensor]:
        """One call on CUDA; on CPU one for each query head of a group."""
        return flash_2.forward(self, q, keys, call) if q.is_cuda else cpu.forward(q, keys, call)

    def run_backward(self, rows: Rows, keys: Keys, call: FlashCall, *, deterministic: bool) -> Sums:
        """One call of torch's backward operator, as forward."""
        if not rows.q.is_cuda:
            return cpu.backward(rows, keys, call)
        return flash_2.backward(self, rows, keys, call, deterministic=deterministic)

    def launch_forward(
        self, q: Tensor, keys: Keys, launch: flash_2.FlashLaunch
    ) -> tuple[Tensor, Tensor]:
        """torch's operator; it draws from the default generator."""
        score = launch.call.score
        with drawing_from(launch.call.seed, q.device) if score.dropout_p else nullcontext():
            out, lse, *_ = _ops._flash_attention_forward(
                q, *keys, *_lengths(launch), score.dropout_p, launch.causal, False,
                scale=score.softmax_scale, **_window(launch),
            )  # fmt: skip
        return out, lse

    def launch_backward(
        self, rows: Rows, keys: Keys, launch: flash_2.FlashLaunch, *, deterministic: bool
    ) -> Sums:
        """One call of torch's backward operator."""
        (q, dout, out, lse, _), score = rows, launch.call.score
        # the random state, and a tensor that nothing reads
        unused = torch.empty((), dtype=torch.uint64, device=q.device)
        state = unused
        if score.dropout_p:
            state = philox_state(launch.call.seed, q.device).view(torch.uint64)
        with _deterministic_mode() if deterministic else nullcontext():
            shares = _ops._flash_attention_backward(
                dout, q, *keys, out, lse, *_lengths(launch), score.dropout_p, launch.causal, state,
                unused, scale=score.softmax_scale, **_window(launch),
            )  # fmt: skip
        return Sums(*shares)


def _lengths(launch: flash_2.FlashLaunch) -> tuple[Tensor | None, Tensor | None, int, int]:
    documents = launch.call.documents
    if documents is None:
        return None, None, launch.max_rows, launch.max_keys
    return documents.cu_seqlens_q, documents.cu_seqlens_k, launch.max_rows, launch.max_keys


def _window(launch: flash_2.FlashLaunch) -> dict[str, int]:
    if launch.left < 0 and launch.right < 0:
        return {}
    return {"window_size_left": launch.left, "window_size_right": launch.right}


def _takes_windows() -> bool:
    """Whether both operators have a window, which they got with torch 2.4 and 2.5."""
    operators = (_ops._flash_attention_forward, _ops._flash_attention_backward)
    schemas: list[Any] = [operator.default._schema for operator in operators]
    return all(any(a.name == "window_size_left" for a in s.arguments) for s in schemas)


@contextmanager
def _deterministic_mode() -> Iterator[None]:
    """The operator has no argument for it: it asks torch's global switch, which is put back."""
    memory: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")  # with "warn" the kernel stays as it is
    memory.fill_uninitialized_memory = False  # would cost a write of every gradient
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = fill
        torch.set_deterministic_debug_mode(mode)
