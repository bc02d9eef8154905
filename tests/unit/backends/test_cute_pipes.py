"""The CuTe kernel's barriers, played by threads: who waits for whom, and what lies in which slot.

The kernel's own functions run here as Python, over barriers, copies and products that are modelled
as the PTX ISA describes them; a warpgroup is one thread, which arrives for its four warps.
"""

from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.played_kernels import Model, at_once, fresh, plain

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

from ring_attn_backends.cute import pipes

consumer, producer = fresh("consumer"), fresh("pipes")


def played(monkeypatch, groups, stages, edges, whole, seed):
    """The tiles that each warpgroup multiplied, in order."""
    model = Model(groups, stages, seed)
    keys, values = model.pipes
    count = edges + whole
    where = (0, edges, whole, edges)  # all tiles in their order

    def release(pipe, i, lane):
        pipe.empty[i % pipe.stages].arrive(4)  # of four warps

    def multiply(mma, into, a, b, *, fresh):
        pipe, slot, part = b
        assert fresh == (pipe is keys)
        model.read(pipe, slot, "k" if pipe is keys else "v", part)

    def order(load, tile, pipe, slot):
        pipe.full[slot].arrive(more=pipe.bytes)
        model.copy(pipe, tile, slot)

    class Operand:
        def __init__(self, pipe, part):
            self.pipe, self.part = pipe, part

        def __getitem__(self, place):
            return self.pipe, place[3], self.part

    arch = SimpleNamespace(
        mbarrier_wait=lambda barrier, number: barrier.wait(number),
        barrier=lambda barrier_id, number_of_threads: model.turns[barrier_id].sync(),
        barrier_arrive=lambda barrier_id, number_of_threads: model.turns[barrier_id].arrive(),
    )
    monkeypatch.setattr(pipes, "arch", arch)
    monkeypatch.setattr(producer, "arch", arch)
    monkeypatch.setattr(producer, "order", order)
    monkeypatch.setattr(consumer, "arch", arch)
    monkeypatch.setattr(consumer, "release", release)
    monkeypatch.setattr(consumer, "multiply", multiply)
    monkeypatch.setattr(consumer, "_weigh", lambda *_, **__: (None, None))
    monkeypatch.setattr(consumer, "_fade", lambda *_: model.pause())
    monkeypatch.setattr(consumer, "rounded", lambda *_: None)
    monkeypatch.setattr(consumer, "warpgroup", SimpleNamespace(wait_group=model.wait_group))
    cutlass = SimpleNamespace(range=lambda *x, unroll: range(*x), max=max)
    monkeypatch.setattr(producer, "cutlass", cutlass)
    monkeypatch.setattr(consumer, "cutlass", cutlass)
    monkeypatch.setattr(consumer, "steps", plain(consumer.steps))

    def consume(part):
        model.flying.groups = []
        given = SimpleNamespace(
            lane=0, part=part, q=None, k=Operand(keys, part), v=Operand(values, part), keys=keys,
            values=values, scores_mma=None, values_mma=None,
            build=SimpleNamespace(config=model.config),
        )  # fmt: skip
        held = SimpleNamespace(s=None, p=None, o=None)
        if part == groups - 1:
            consumer._pass_turn(given)
        if count:
            plain(consumer.walk)(held, given, consumer.Visit(None, None, None, where))

    def produce():
        if count:
            plain(producer.bring_pairs)((None, None), (keys, values), where, 0)

    at_once([*(partial(consume, part) for part in range(groups)), produce])
    return model.log


@settings(phases=[Phase.generate])  # a deadlock takes seconds, to shrink it minutes
@given(
    groups=st.integers(1, 3), stages=st.integers(1, 3), edges=st.integers(0, 5),
    whole=st.integers(0, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_warpgroup_multiplies_every_tile_once_and_nobody_waits_for_ever(
    groups, stages, edges, whole, seed
):
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = played(monkeypatch, groups, stages, edges, whole, seed)

    count = edges + whole
    expected = [("k", 0)] if count else []
    for i in range(1, count):
        expected += [("k", i), ("v", i - 1)]
    if count:
        expected.append(("v", count - 1))
    assert log == dict.fromkeys(range(groups), expected)
