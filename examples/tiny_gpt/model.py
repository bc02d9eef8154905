"""A small GPT whose attention is whoever's: it may hold a shard of a sequence or all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q (batch, tokens, heads, dim), k and v (batch, tokens, key heads, dim) -> out as q; causal."""


@dataclass(frozen=True)
class Size:
    """Of a model, in numbers of channels, heads and layers."""

    vocabulary: int
    layers: int = 2
    heads: int = 4
    key_heads: int = 2
    head_dim: int = 32

    @property
    def width(self) -> int:
        """Channels of a token between the layers."""
        return self.heads * self.head_dim


class TinyGPT(nn.Module):
    """tokens (batch, some tokens) and their positions in the whole sequence -> logits.

    It also sees which token stands before each, as if a layer had looked at it already: a model so
    small would need thousands of steps to find out that names and meanings stand side by side.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.width)
        self.before = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary, bias=False)

    def forward(
        self, tokens: Tensor, before: Tensor, positions: Tensor, attention: Attention
    ) -> Tensor:
        """logits (batch, tokens, vocabulary); before: the token before each, as tokens."""
        hidden = self.embedding(tokens) + self.before(before)
        for layer in self.layers:
            hidden = layer(hidden, positions, attention)
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class Layer(nn.Module):
    """Attention, then two linear maps, each added to what came in."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.split = [size.heads, size.key_heads, size.key_heads]
        self.head_dim = size.head_dim
        self.norm_attention, self.norm_map = nn.RMSNorm(size.width), nn.RMSNorm(size.width)
        self.heads = nn.Linear(size.width, sum(self.split) * size.head_dim, bias=False)
        self.out = nn.Linear(size.width, size.width, bias=False)
        self.up = nn.Linear(size.width, 4 * size.width, bias=False)
        self.down = nn.Linear(4 * size.width, size.width, bias=False)

    def forward(self, hidden: Tensor, positions: Tensor, attention: Attention) -> Tensor:
        """(batch, tokens, width), as hidden."""
        heads = self.heads(self.norm_attention(hidden)).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split(self.split, dim=2)
        out = attention(rotated(q, positions), rotated(k, positions), v)
        hidden = hidden + self.out(out.flatten(2))
        mapped: Tensor = hidden + self.down(functional.gelu(self.up(self.norm_map(hidden))))
        return mapped


def rotated(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021): pairs of channels turned by an angle per position."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angles = positions[:, None, None] * frequencies  # (tokens, 1, half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of the whole sequence in plain PyTorch, in q's dtype: what errors are measured by."""
    group = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q * q.shape[-1] ** -0.5, k)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v)
