"""Calls over a cache on a GPU, ours and the right one, and what they are made of."""

from __future__ import annotations

import torch

from ring_attn_bench import flash_attn_with_kvcache


def random(*shape, seed=0, dtype=torch.bfloat16):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cuda").to(dtype)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32, device="cuda")


def called(*tensors, backend="triton", **options):
    return flash_attn_with_kvcache(*tensors, backend=backend, return_softmax_lse=True, **options)


def right(*tensors, **options):
    """By the reference, in float64, of caches of its own."""
    wide = [x.double() for x in tensors]
    as_the_cache = "k", "v", "rotary_cos", "rotary_sin"
    options = {name: x.double() if name in as_the_cache else x for name, x in options.items()}
    return called(*wide, backend="reference", **options)
