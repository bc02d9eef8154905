"""Real peers over kernels of plain torch, so that their loops and our adapters run on a CPU."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from ring_attn_backends.peers.flash_attn_kernels import ours_as_flash_attn
from ring_attn_backends.peers.ring_flash_attn import RingFlashAttn
from ring_attn_backends.peers.torch_cp import Math, TorchCP
from ring_attn_backends.peers.yunchang import Ulysses
from torch.library import Library

from tests.distributed.plain_flash_attn import PlainFlashAttn, PlainFlashAttn4, attend, gradients


class RingPlain(RingFlashAttn):
    """ring-flash-attn over plain torch."""

    name = "ring_flash_attn[plain]"
    inside = PlainFlashAttn()
    kernel = inside.name


class RingPlain4(RingFlashAttn):
    """ring-flash-attn over plain torch that looks like flash-attn-4."""

    name = "ring_flash_attn[plain_4]"
    inside = PlainFlashAttn4()
    kernel = inside.name


class Ours:
    """In the place of flash-attn: our functions over our reference, which is plain torch too."""

    name = "reference"

    def stand_ins(self):
        return ours_as_flash_attn(self.name)

    def unsupported(self, problem):
        return None

    def version(self):
        return "ours"


class RingOurs(RingFlashAttn):
    """ring-flash-attn over our functions."""

    name = "ring_flash_attn[ours]"
    inside = Ours()
    kernel = inside.name


class UlyssesOurs(Ulysses):
    """yunchang's Ulysses over our functions."""

    name = "yunchang[ulysses,ours]"
    inside = Ours()
    kernel = inside.name


class UlyssesPlain(Ulysses):
    """yunchang's Ulysses over plain torch."""

    name = "yunchang[ulysses,plain]"
    inside = PlainFlashAttn()
    kernel = inside.name


class UlyssesPlain4(Ulysses):
    """yunchang's Ulysses over plain torch that looks like flash-attn-4."""

    name = "yunchang[ulysses,plain_4]"
    inside = PlainFlashAttn4()
    kernel = inside.name


class PlainAllToAll(TorchCP):
    """torch's ring over its flash operator, which has an implementation for CPUs here."""

    name = "torch_cp[plain,alltoall]"
    kernel = "reference"
    rotation = "alltoall"
    needs_cuda = False

    def __init__(self):
        super().__init__()
        self._library = flash_operators_for_cpu()

    def _kernel_lacks(self, problem):
        return None

    def _attention(self, problem):
        return FlashOperator(problem)


class PlainAllGather(PlainAllToAll):
    """The same, keys gathered."""

    name = "torch_cp[plain,allgather]"
    rotation = "allgather"


PEERS = {
    f"peer:{peer.name}": peer
    for peer in (
        RingPlain, RingPlain4, RingOurs, UlyssesPlain, UlyssesPlain4, UlyssesOurs,
        PlainAllToAll, PlainAllGather, Math,
    )
}  # fmt: skip


def missing(name):
    """The package that a peer needs and that is not installed, or None."""
    package = name.removeprefix("peer:").partition("[")[0]
    if package == "torch_cp" or find_spec(package):
        return None
    return package


class FlashOperator(torch.nn.Module):
    """What scaled_dot_product_attention calls on a GPU."""

    def __init__(self, problem):
        super().__init__()
        self.causal = problem.mask.causal

    def forward(self, q, k, v):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, is_causal=self.causal)[0]


def flash_operators_for_cpu():
    """torch's flash operators, which are for GPUs, in plain torch as long as this is held."""
    library = Library("aten", "IMPL")
    library.impl("_scaled_dot_product_flash_attention", flash_forward, "CPU")
    library.impl("_scaled_dot_product_flash_attention_backward", flash_backward, "CPU")
    return library


def flash_forward(q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    how = scale or q.shape[-1] ** -0.5, is_causal, -1, -1
    out, lse, _ = attend(*(x.transpose(1, 2) for x in (q, k, v)), *how)
    none = q.new_empty(())
    lengths = q.shape[2], k.shape[2]
    return out.to(q.dtype).transpose(1, 2), lse, none, none, *lengths, none, none, none


def flash_backward(
    grad_out, query, key, value, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p,
    is_causal, philox_seed, philox_offset, *, scale=None,
):  # fmt: skip
    how = scale or query.shape[-1] ** -0.5, is_causal, -1, -1
    tokens_first = (x.transpose(1, 2) for x in (grad_out, query, key, value, out))
    return tuple(x.transpose(1, 2) for x in gradients(*tokens_first, logsumexp, *how))
