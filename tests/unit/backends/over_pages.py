"""Adapters over a cache of pages, made where torch has a GPU, and what they are called with."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from ring_attn_backends.flag_gems import FlagGemsBackend
from ring_attn_backends.flash_attn_3 import FlashAttn3Backend
from ring_attn_backends.flash_attn_4 import FlashAttn4Backend

from ring_attn_bench.contract.cache import Cache
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Mask
from tests.unit.backends.fake_kernels.conformance import made, module
from tests.unit.backends.fake_kernels.flag_gems import FlagGems
from tests.unit.backends.fake_kernels.flash_attn_3 import Of2026
from tests.unit.backends.fake_kernels.flash_attn_4 import FlashAttn4

PROBLEM = CachedProblem(
    batch=2, queries=1, capacity=1000, heads_q=4, heads_kv=2, head_dim=64, head_dim_v=64,
    dtype="bfloat16", device="cuda", mask=Mask(causal=True),
)  # fmt: skip
MASKS = [Mask(), Mask(True), Mask(True, 9), Mask(False, 5, 2), Mask(window_right=1)]


class OnCpu:
    """An adapter as it is, but that it takes CPU tensors: the fakes have no others."""

    def unsupported(self, problem):
        return super().unsupported(replace(problem, device="cuda"))


class Third(OnCpu, FlashAttn3Backend):
    """flash-attn 3."""


class Fourth(OnCpu, FlashAttn4Backend):
    """flash-attn 4."""


class Gems(OnCpu, FlagGemsBackend):
    """FlagGems."""


def third(monkeypatch, *off, package=None, **options):
    off = {f"FLASHATTENTION_DISABLE_{name}": True for name in off}
    config = module("flash_attn_config", CONFIG={"build_flags": off})
    monkeypatch.setattr(Third, "__init__", lambda self: super(Third, self).__init__(**options))
    fakes = {"fake": package or Of2026(), "flash_attn_config": config}
    return made(Third, monkeypatch, "flash_attn_interface", **fakes)


def fourth(monkeypatch, architecture=9):
    package = FlashAttn4(architecture)
    return made(Fourth, monkeypatch, "flash_attn.cute.interface", (architecture, 0), fake=package)


def gems(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    return made(Gems, monkeypatch, "flag_gems", fake=FlagGems())


def drawn(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).bfloat16()


def close(found, expected):
    torch.testing.assert_close(found[0].float(), expected[0].float(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(found[1], expected[1].float(), rtol=1e-3, atol=1e-3)


def pages(lengths, size=16):
    """A cache of pages, NaN where no token is."""
    needed = [-(-length // size) for length in lengths]
    table = torch.full((len(lengths), max(needed) + 1), 10**6, dtype=torch.int32)
    order = torch.randperm(sum(needed) + 2, generator=torch.Generator().manual_seed(1)).int()
    k = torch.full((len(order), size, 2, 64), float("nan")).bfloat16()
    v = k.clone()
    for entry, count in enumerate(needed):
        first = sum(needed[:entry])
        table[entry, :count] = order[first : first + count]
        for at in range(lengths[entry]):
            page = order[first + at // size]
            k[page, at % size], v[page, at % size] = drawn(2, 64) + at / 50, drawn(2, 64) - at / 50
    return Cache(k, v, torch.tensor(lengths, dtype=torch.int32), table)
