"""What the suite asks of every backend, of `cute` with its launches carried out in float64."""

from dataclasses import replace

import pytest
from ring_attn_backends import cute
from ring_attn_backends.cute import launch, serves, table

from ring_attn_bench.conformance.ask import ask
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.records.direction import DIRECTIONS
from ring_attn_bench.records.status import Status
from tests.carried_out import carried_out
from tests.carried_out_gathered import carried_out as carried_out_gathered
from tests.carried_out_packed import carried_out as carried_out_packed


class OnCpu(cute.CuteBackend):
    """It refuses what it refuses on an H200."""

    def unsupported(self, problem):
        return serves.refused(replace(problem, device="cuda"), serves.CAPABILITY)


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):
        monkeypatch.setattr(serves, lacks, lambda: None)

    def enqueue(call, folder=None):
        family = call.build.kernel.rpartition(".")[0]
        carry_out = {"gathered": carried_out_gathered, "packed": carried_out_packed}.get(
            family, carried_out
        )
        (launch._nothing_seen if call.is_empty else carry_out)(call)

    monkeypatch.setattr(launch, "enqueue", enqueue)
    for dim, configs in table.PACKED_CANDIDATES.items():
        monkeypatch.setitem(table.PACKED, dim, configs[0])
    return OnCpu()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())
def test_what_is_not_refused_is_right_and_what_is_refused_is_refused_in_advance(
    backend, feature, direction
):
    answer = ask(backend, feature, direction, "cpu")

    assert not answer.status.is_failure, answer.reason
    assert answer.declared, answer.reason
    assert answer.status is Status.OK or len(answer.reason.split()) > 3, "a reason is a sentence"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["strides_expanded", "strides_packed", "strides_cut"])
def test_tensors_may_lie_anywhere(backend, name, direction):
    assert ask(backend, FEATURES[name], direction, "cpu").status is Status.OK


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", [x for x in FEATURES if x.startswith("documents")])
def test_packed_documents_are_served_where_the_table_has_them(backend, name, direction):
    has_it = name != "documents_alibi"
    assert (ask(backend, FEATURES[name], direction, "cpu").status is Status.OK) == has_it


def test_packed_documents_are_refused_in_advance_where_it_has_none(backend, monkeypatch):
    monkeypatch.setattr(serves, "PACKED", {})
    answer = ask(backend, FEATURES["documents"], DIRECTIONS[0], "cpu")

    assert answer.declared
    assert "no packed documents" in answer.reason
