"""What a peer cannot be, and what the harness says of it before anything runs."""

from types import SimpleNamespace

import pytest
import torch

from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.peer_contestant import PeerRunner
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.run import EntrySelection
from ring_attn_bench.bench.suite import Entry
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant

CASE = Case(batch=1, seqlen_total=64, world_size=4, heads_q=2, heads_kv=2, head_dim=16,
            dtype="float32", causal=False)  # fmt: skip


def prepared(name):
    place = WorkerPlace(0, 1, torch.device("cpu"), (0, 1, 2, 3), 4)
    spec = Contestant(backend=name, partition="contiguous", options=None, played="loopback")
    request = Prepare(case=CASE, contestant=spec, directions=(Direction.FORWARD,), seed=0)
    return prepare(request, place, Contexts(place))


def test_all_ranks_in_one_process_is_not_for_peers():
    with pytest.raises(Refused, match="not by loopback"):
        prepared("peer:torch_cp[math]")


def test_a_peer_whose_package_does_not_import_is_refused_with_that_reason(monkeypatch):
    monkeypatch.setattr(
        "ring_attn_bench.registry.peers", lambda: {"peer:gone[x]": "no_such_module:Peer"}
    )
    with pytest.raises(Refused, match="no_such_module"):
        prepared("peer:gone[x]")


def test_a_peer_with_an_interpreted_kernel_of_ours_inside_has_no_speed():
    for kernel, interpreted in (
        (SimpleNamespace(interpreted=lambda: True), True),
        (SimpleNamespace(), False),
        (None, False),
    ):
        assert PeerRunner(None, None, kernel, True, None).interpreted is interpreted


def test_a_name_with_brackets_selects_itself_and_a_pattern_still_selects():
    names = ["peer:torch_cp[math]", "peer:torch_cp[flash,alltoall]", "aten"]
    entries = [
        Entry(
            case=CASE,
            contestant=Contestant(backend=name, partition="zigzag", options=None),
            directions=(Direction.FORWARD,),
        )
        for name in names
    ]

    def chosen(pattern):
        return [e.contestant.backend for e in EntrySelection(contestants=pattern).of(entries)]

    assert chosen("peer:torch_cp[math]/zigzag/own") == names[:1]
    assert chosen("peer:*") == names[:2]
    assert chosen("*") == names
