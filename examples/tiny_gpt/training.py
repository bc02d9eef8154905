"""One training run: the same model, text and optimizer, on one device or dealt to ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

# Here, before there is a group: its functions' defaults hold the group of all ranks that there is
# when it is imported, which AdamW does. gloo, freed as late as they are, ends some programs that
# are done with SIGABRT.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn import functional

from ring_attn_bench import flash_attn_func, position_ids, shard, zigzag_ring_flash_attn_func
from tiny_gpt.model import Attention, Size, TinyGPT, plain_attention
from tiny_gpt.text import VOCABULARY, text

PARTITION = "zigzag"  # causal work is even over the ranks


RATE = 0.128
"""Of learning, times the width: 1e-3 for 128 channels. With twice as much, or half the batch that
is the default, float32 loses sight of float64 before the loss falls: gradients are near 0 then, and
what rounding adds to them is learned as fast as they are."""
WARMUP = 20
"""Steps until it is reached."""


@dataclass(frozen=True)
class Task:
    """What is trained and where; tokens: of the whole sequence. head_dim: of its attention."""

    device: torch.device
    tokens: int
    batch: int
    seed: int
    head_dim: int = 32

    @property
    def size(self) -> Size:
        """Of the model."""
        return Size(VOCABULARY, head_dim=self.head_dim)

    @property
    def low(self) -> torch.dtype:
        """In which attention and products are computed by all but the truth."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32


@dataclass(frozen=True)
class Way:
    """Who computes attention; ranks: how many the sequence is dealt to, 1 for one device."""

    name: str
    attention: Attention
    ranks: int = 1
    is_truth: bool = False

    @classmethod
    def by_backend(cls, backend: str, ranks: int) -> Way:
        """Through the ring where there are several ranks, else through one launch."""

        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            function = zigzag_ring_flash_attn_func if ranks > 1 else flash_attn_func
            out = function(q, k, v, causal=True, backend=backend)
            assert isinstance(out, Tensor)  # no probabilities were asked for
            return out

        return cls(f"{backend} on {ranks}", attention, ranks)


TRUTH = Way("float64", plain_attention, is_truth=True)
PLAIN = Way("plain PyTorch", plain_attention)


class Run:
    """A model with its optimizer, from its seed on; steps leave their loss."""

    def __init__(self, task: Task, way: Way) -> None:
        self.task, self.way, self.step = task, way, 0
        torch.manual_seed(task.seed)  # the same weights on every rank and for every way
        model = TinyGPT(task.size).to(task.device)
        self.model = model.double() if way.is_truth else model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95), eps=1e-6)

    def losses(self, until: int) -> Iterator[float]:
        """Trains up to a step; the mean loss of each in nats, before its update."""
        while self.step < until:
            for group in self.optimizer.param_groups:
                group["lr"] = RATE / self.task.size.width * min(1.0, (self.step + 1) / WARMUP)
            loss = self.gradients()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            yield loss

    def gradients(self) -> float:
        """The mean loss of this step; its gradients, summed over the ranks, in the parameters."""
        made = text(self.step, self.task.seed, self.task.batch, self.task.tokens)
        rank = dist.get_rank() if self.way.ranks > 1 else 0
        tokens, before, following = (
            shard(x, rank, self.way.ranks, PARTITION).to(self.task.device) for x in made
        )
        positions = position_ids(
            self.task.tokens, rank, self.way.ranks, PARTITION, self.task.device
        )
        self.optimizer.zero_grad()
        with torch.autocast(
            self.task.device.type, self.task.low, enabled=self.task.device.type == "cuda"
            and not self.way.is_truth,
        ):  # fmt: skip
            logits = self.model(tokens, before, positions, self.way.attention)
        wide = logits.double() if self.way.is_truth else logits.float()
        loss = functional.cross_entropy(wide.flatten(0, 1), following.flatten(), reduction="sum")
        count = self.task.batch * self.task.tokens
        (loss / count).backward()
        total = loss.detach().double()
        if self.way.ranks > 1:
            for parameter in self.model.parameters():
                dist.all_reduce(parameter.grad)
            dist.all_reduce(total)
        return total.item() / count

    def save(self, path: Path) -> None:
        """Keeps all that a run on any number of ranks goes on from."""
        kept = self.model.state_dict(), self.optimizer.state_dict(), self.step
        torch.save(kept, path)

    def load(self, path: Path) -> None:
        """Goes on from there."""
        model, optimizer, self.step = torch.load(path, map_location=self.task.device)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
