"""Text that it makes: what is asked late was told early, so that attention has to reach far."""

from __future__ import annotations

import torch
from torch import Tensor

LETTERS = 16
VOCABULARY = 2 * LETTERS
"""Names, and what they stand for."""


def text(step: int, seed: int, batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (batch, tokens) of one training step, that before each, and that which follows.

    Each sequence has a meaning of its own for every name, and is made of names, drawn anew, each
    with its meaning behind it. Names cannot be told, so that the loss in nats falls from
    log 32 = 3.47 to (log 16) / 2 = 1.39, and a little more for names that are met first.
    Before the first stands itself. Follows from step and seed alone, on any number of ranks alike.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    meanings = torch.stack([torch.randperm(LETTERS, generator=generator) for _ in range(batch)])
    names = torch.randint(LETTERS, (batch, tokens // 2 + 1), generator=generator)
    pairs = torch.stack([names, LETTERS + meanings.gather(1, names)], dim=2).flatten(1)
    before = torch.cat([pairs[:, :1], pairs[:, : tokens - 1]], dim=1)
    return pairs[:, :tokens], before, pairs[:, 1 : tokens + 1]
