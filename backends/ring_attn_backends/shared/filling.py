"""Tables with room for other batches, and how another batch's numbers come into them."""

from __future__ import annotations

import torch
from torch import Tensor


def filled_up(table: Tensor, rows: int) -> Tensor:
    """The table with rows of zeros behind its own: a tile or a visit of no tokens."""
    return torch.cat([table, table.new_zeros(rows - len(table), table.shape[1])])


def into(table: Tensor, numbers: Tensor) -> None:
    """Writes numbers where launches read theirs."""
    table.copy_(numbers)
