"""The CuTe kernel's barriers, played by threads: who waits for whom, and what lies in which slot.

The kernel's own functions run here as Python, over barriers, copies and products that are modelled
as the PTX ISA describes them; a warpgroup is one thread, which arrives for its four warps.
"""

from functools import partial

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from ring_attn_backends.cute.programs import Visit

from tests.played_kernels import Model, PlayedForward, at_once, fresh, multiplied, plain

pytest.importorskip("cutlass", reason="pip install 'ring-attn-bench[cute]'")

consumer, producer = fresh("consumer"), fresh("pipes")


def played(monkeypatch, groups, stages, edges, whole, seed):
    """The tiles that each warpgroup multiplied, in order."""
    model = Model(groups, stages, seed)
    forward = PlayedForward(monkeypatch, model, consumer, producer)
    where = (0, edges, whole, edges)  # all tiles in their order

    def consume(part):
        held, told = forward.begin(part)
        if edges + whole:
            plain(consumer.walk)(held, told, Visit(None, None, None, where))

    def produce():
        if edges + whole:
            plain(producer.bring_pairs)((None, None), model.pipes, where, 0)

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

    assert log == dict.fromkeys(range(groups), multiplied(range(edges + whole)))
