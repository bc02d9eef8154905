"""All ranks' plans with the position of every token: what a plan's claims are checked against."""

from itertools import pairwise

import numpy as np

from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.plan.plans import plan

PLAIN = Abilities(frozenset({Form.FULL, Form.CAUSAL}))
WINDOWS = Abilities(PLAIN.forms | {Form.WINDOW})
EVERY = Abilities(frozenset(Form))
GATHERS = Abilities(PLAIN.forms, gathers=True)
BY_POSITION = Abilities(PLAIN.forms, gathers=True, positions=True)


def sees(mask, rows, keys):
    """Which rows see which keys, by the mask's definition."""
    ahead = np.asarray(keys)[None, :] - np.asarray(rows)[:, None]
    hidden = (ahead > 0) & mask.causal
    if mask.window_left is not None:
        hidden |= ahead < -mask.window_left
    if mask.window_right is not None:
        hidden |= ahead > mask.window_right
    return ~hidden


def positions(spans):
    return np.array([at for span in spans for at in span.positions()], dtype=int)


def computed(block):
    """The pairs that a kernel computes which knows the block's form and looks no further."""
    rows, keys = positions(block.rows), positions(block.keys)
    if block.form is Form.FULL:
        return np.ones((len(rows), len(keys)), dtype=bool)
    if block.form is Form.CAUSAL:
        assert len(rows) == len(keys)
        return np.tri(len(rows), dtype=bool)
    if block.form is Form.WINDOW:
        rows, keys, band = range(len(rows)), range(len(keys)), block.index_band
    else:
        band = block.band
    return np.array([[band.allows(int(i) - int(j)) for j in keys] for i in rows])


def document_of(positions, starts, void=()):
    """Which document each token is in, or -1: one of all tokens where there are no starts.

    void: documents that are padding.
    """
    if starts is None:
        return np.zeros(len(positions), dtype=int)
    number = np.full(len(positions), -1)
    for document, (start, stop) in enumerate(pairwise(starts)):
        number[(positions >= start) & (positions < stop)] = -1 if document in void else document
    return number


class Ring:
    """The plans of all ranks, and where every token is."""

    def __init__(self, mask, layout, able):
        self.mask, self.layout, self.able = mask, layout, able
        world_size = layout.world_size
        self.plans = [plan(layout, rank, able) for rank in range(world_size)]
        assert not any(isinstance(p, str) for p in self.plans), self.plans
        spans = (layout.partition.spans(r, world_size, layout.tokens) for r in range(world_size))
        self.own = [positions(s) for s in spans]

    def sees(self, rows, keys):
        """Which rows see which keys: by the mask, and of one document."""
        ours, theirs = (
            document_of(x, self.layout.documents, self.layout.void) for x in (rows, keys)
        )
        together = (ours[:, None] == theirs[None, :]) & (ours >= 0)[:, None]
        return sees(self.mask, rows, keys) & together

    def landed(self, rank, index):
        """The positions of the keys in a step's landing area."""
        fetches = self.plans[rank].steps[index].fetches
        parts = [self.own[f.owner][f.tokens.slice] for f in fetches]
        return self.own[rank] if index == 0 else np.concatenate([*parts, []]).astype(int)

    def gathered(self, rank):
        """The one launch over all keys; positions of the rank's rows, and of its pieces' areas."""
        (found,) = [step.gathered for step in self.plans[rank].steps if step.gathered is not None]
        own, landed = self.own[rank], self.landed(rank, 1)
        return found, own, lambda piece: landed if piece else own

    def launches(self):
        """(rank, launch, positions of its rows, positions of its keys)."""
        for rank, one in enumerate(self.plans):
            for index, step in enumerate(one.steps):
                keys = self.landed(rank, index)
                for launch in step.launches:
                    rows = self.own[rank][launch.rows.slice]
                    yield rank, launch, rows, keys[launch.keys.slice]


def accumulated(length, starts_at_zero, ranges, shares, firsts):
    """What is in storage after shares were put (first) or added; what nobody wrote is NaN."""
    total = np.full(length, 0.0 if starts_at_zero else np.nan)
    for where, share, first in zip(ranges, shares, firsts, strict=True):
        total[where.slice] = share if first else total[where.slice] + share
    return total


def ring_of(
    name, world_size, tokens, mask, able, slots=2, grouping=None, *, one_launch=False,
    documents=None, void=frozenset(),
):  # fmt: skip
    if one_launch and world_size > 1:
        grouping = (world_size - 1,)
    where = get_partition(name), world_size, tokens, mask.band
    return Ring(mask, Layout(*where, slots, grouping, one_launch, documents, None, void), able)
