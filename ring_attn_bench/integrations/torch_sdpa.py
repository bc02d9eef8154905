"""torch's own switch: our kernels where scaled_dot_product_attention takes flash attention.

    from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl
    from ring_attn_bench.integrations.torch_sdpa import register

    activate_flash_attention_impl(register(backend="triton"))

What is activated computes aten's two operators of a sequence, forward and backward, on CUDA: all
that scaled_dot_product_attention asks of flash attention, and torch's context_parallel of its
blocks. The operators of documents and nested tensors (varlen_attn) stay torch's, and so the backend
`aten`, which calls those, may be activated too. Which calls take flash attention stays torch's
choice: float16 and bfloat16, head dims up to 256, no mask.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.library import Library

from ring_attn_bench import registry
from ring_attn_bench.calls.attend import Call, Given
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import prepared
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.one_device.call import OneDevice
from ring_attn_bench.ops import passes

NAME = "ring_attn_bench"

Results = tuple[Tensor, Tensor, None, None, int, int, Tensor, Tensor, Tensor]
"""out, lse, two starts that a sequence has not got, its lengths, and three of dropout."""


def register(name: str = NAME, *, backend: str = "auto") -> str:
    """Tells torch of the kernels by a name, which is returned; nothing is activated.

    backend: a name from `ring-attn-bench list`. A name that is registered again is what it was
    registered as last, from its next activation on.

    Raises UnknownName.
    """
    from torch.nn.attention import register_flash_attention_impl

    kernels = Kernels(backend)
    register_flash_attention_impl(name, register_fn=lambda: kernels.installed("CUDA"))
    return name


class Installed:
    """Kernels in torch's dispatcher, until they are removed."""

    def __init__(self, library: Library) -> None:
        self._library: Library | None = library

    def remove(self) -> None:
        """torch's own kernels from now on."""
        self._library = None


@dataclass(frozen=True)
class Kernels:
    """aten's operators of flash attention of a sequence, by a backend; raises UnknownName."""

    backend: str = "auto"
    way: OneDevice = field(default_factory=OneDevice)

    def __post_init__(self) -> None:
        if self.backend != "auto":
            registry.check_backend(self.backend)

    def installed(self, key: str) -> Installed:
        """Puts them into torch's dispatcher for the devices of a dispatch key."""
        library = Library("aten", "IMPL", key)
        with warnings.catch_warnings():  # torch warns of what takes another's place: it was asked
            warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
            library.impl("_scaled_dot_product_flash_attention", self.forward, key)
            library.impl("_scaled_dot_product_flash_attention_backward", self.backward, key)
        return Installed(library)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        return_debug_mask: bool = False,
        *,
        scale: float | None = None,
    ) -> Results:
        """out as query, (batch, heads, queries, head_dim), in memory laid out as query is."""
        if dropout_p or return_debug_mask:
            what = f"dropout_p is {dropout_p}" if dropout_p else "dropout's pattern is asked for"
            raise InvalidArgument(
                f"{what}, and torch keeps of dropout what these kernels do not go by; leave it "
                "out, or take torch's own: torch.nn.attention.restore_flash_attention_impl()."
            )
        call, given = self._called(query, key, value, scale, is_causal)
        out, lse = passes.forward(call, given)
        out = out.transpose(1, 2)
        like = torch.empty_like(query)  # what torch.compile was told
        if out.stride() != like.stride():
            out = like.copy_(out)
        state = torch.zeros(2, dtype=torch.uint64, device=query.device)
        offset = torch.zeros((), dtype=torch.uint64, device=query.device)
        pattern = query.new_empty(0)
        return out, lse, None, None, query.shape[2], key.shape[2], state, offset, pattern

    def backward(
        self,
        grad_out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        cum_seq_q: Tensor | None,
        cum_seq_k: Tensor | None,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        philox_seed: Tensor,
        philox_offset: Tensor,
        *,
        scale: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The share of these keys; out and logsumexp are of the whole row, as in a ring."""
        call, given = self._called(query, key, value, scale, is_causal)
        dout, whole = grad_out.transpose(1, 2), out.transpose(1, 2)
        dq, dk, dv, _ = passes.backward(call, given, (whole, logsumexp), (dout, None))
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2)

    def _called(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, is_causal: bool
    ) -> tuple[Call, Given]:
        if is_causal and query.shape[2] != key.shape[2]:
            raise InvalidArgument(
                f"is_causal of {query.shape[2]} queries and {key.shape[2]} keys: torch counts from "
                "the first key, and these kernels from the last; pass as many of both."
            )
        options = Options(
            self.backend, softmax_scale=scale, causal=is_causal,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        call, given, _ = prepared(q, k, v, options, self.way)
        return call, given
