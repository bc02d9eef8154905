"""The most bytes of tensors at one time that code makes, on a CPU, whose allocator does not count.

And one rank's pass without its peers: over the transports' own links, with nobody to talk to, and
kernels that make their results and nothing else.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from typing import ClassVar
from unittest.mock import MagicMock, patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ring_attn_bench.contract.tensors import Sums
from ring_attn_bench.plan.block import Alibi, Form
from ring_attn_bench.ring import backward, forward
from ring_attn_bench.ring.packing import PackedKeys
from ring_attn_bench.ring.transports import p2p
from ring_attn_bench.ring.transports.copy_engine.link import CopyEngineLink, HomeLink
from ring_attn_bench.ring.transports.copy_engine.programme import programme
from ring_attn_bench.ring.transports.copy_engine.route import Home, Route
from ring_attn_bench.ring.transports.played import own_part


class LiveBytes(TorchDispatchMode):
    """Counts what is made inside, until nothing refers to it; `most` is the peak."""

    def __init__(self):
        super().__init__()
        self.most = self._live = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = [x.untyped_storage() for x in tree_leaves((args, kwargs)) if _counts(x)]
        given = {storage._cdata for storage in before}
        found = func(*args, **(kwargs or {}))
        for x in tree_leaves(found):
            if _counts(x):
                self._add(x.untyped_storage(), given)
        return found

    def _add(self, storage, given):
        place = storage._cdata
        if place in self._known or place in given:
            return
        self._known.add(place)
        self._live += storage.nbytes()
        self.most = max(self.most, self._live)
        weakref.finalize(storage, self._freed, place, storage.nbytes())

    def _freed(self, place, size):
        self._known.remove(place)
        self._live -= size


def _counts(x):
    return isinstance(x, torch.Tensor)


class Plain:
    """A kernel whose results are not written."""

    name = "plain"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.NONE
    worker_environment: ClassVar = {}

    def __init__(self, *, needs_delta):
        self.needs_delta = needs_delta

    def unsupported(self, problem):
        return None

    def version(self):
        return "0"

    def forward(self, q, keys, block, score):
        return _out_and_lse(q, keys.v)

    def backward(self, rows, keys, block, score, *, deterministic):
        return Sums(*(x.new_empty(x.shape) for x in (rows.q, *keys)))


class Accumulating(Plain):
    """One that makes nothing."""

    def forward_into(self, q, keys, running, block, score, *, first):
        pass

    def backward_into(self, rows, keys, sums, block, score, **flags):
        pass


class Gathering(Accumulating):
    """One that takes the keys of all ranks."""

    def gathered_forward(self, q, keys, where, score):
        return _out_and_lse(q, keys.own.v)

    def gathered_dkdv(self, rows, keys, own, landed, where, score, *, own_first):
        pass

    def gathered_dq(self, rows, keys, where, score):
        return rows.q.new_empty(rows.q.shape)


def _out_and_lse(q, v):
    wide = torch.promote_types(q.dtype, torch.float32)
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    return out, q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=wide)


@contextmanager
def nobody_else():
    """Messages that are never sent, kernels fused that are fused on a GPU, and streams."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(p2p.Messages, "batch", lambda *given: []))
        stack.enter_context(patch.object(forward, "merge", lambda *given: None))
        stack.enter_context(patch.object(backward, "delta", _delta))
        stack.enter_context(patch("torch.cuda.current_stream", MagicMock()))
        yield


def _delta(dout, out, wide):
    batch, rows, heads, _ = out.shape
    return out.new_empty(batch, heads, rows, dtype=wide)


def messages():
    """The transport of messages, without a group."""
    return p2p.P2P(None, None)


class Symmetric:
    """Memory that is kept, as the copy engines' transport has it; made before anything counts."""

    def __init__(self, size):
        self._memory = torch.empty(size, dtype=torch.uint8)
        self._at = MagicMock(shares_gpu=False)
        self._at.route = lambda plan, slot, keys: Route(self._at, plan, slot, keys)
        self._at.outgoing_of.return_value = self._at.inbox_of.return_value = 0
        self._at.inbox_part = lambda reader, tokens, like: self._view(
            len(tokens), like.shape[1], like.dtype
        )
        self._at.words_of.return_value = torch.zeros(1, dtype=torch.int32)

    def room(self, packing, tokens, sends, dtype, device):
        heads, unit = packing.batch * packing.heads, packing.head_dim + packing.head_dim_v
        buffer = self._view(tokens if sends else 0, packing.width, dtype)
        buffer = buffer.view(heads, len(buffer), unit)
        return PackedKeys(buffer, packing.views(buffer) if sends else None)

    def begin(self, plan):
        tables = [0] * plan.world_size
        part = own_part(plan.rank, plan.world_size)
        self._at.programme = lambda plan, slot, groups: programme(
            MagicMock(), plan, slot, part, tables, 0, groups
        )
        return CopyEngineLink(self._at, plan, 0, MagicMock())

    def resume(self, plan):
        link = self.begin(plan)
        home = Home(plan, self._at.programme(plan, 0, 1))
        return HomeLink(self._at, plan, link._stream, home)

    def _view(self, tokens, width, dtype):
        size = tokens * width * dtype.itemsize
        return self._memory[:size].view(dtype).view(tokens, width)


def most_bytes(call):
    """Of a call, its result included."""
    with nobody_else(), LiveBytes() as counted:
        result = call()
    del result
    return counted.most
