"""The transport of docs/adding-a-transport.md, as it stands there, in a ring."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from ring_attn_bench import RingContext, RingOptions, registry
from ring_attn_bench.bench.messages import Envelope, Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import load
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.records import record as bench_record
from tests.distributed.pool import Raised, Ring
from tests.distributed.truth import Case, attend, faults

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-transport.md"
CASES = [
    Case(4, "zigzag", 8, heads=4, batch=2),
    Case(3, "contiguous", 6, causal=False),
    Case(4, "striped", 7, backend="aten"),
]


def by_the_page(ring: Ring, case: Case, folder: str, options: dict[str, object]) -> object:
    sys.path.insert(0, folder)
    own = {"gathered": "gathered:Gathered", "broken": "nowhere:Nothing", "bare": "gathered:dist"}
    with patch.object(registry, "transports", lambda: {**registry.TRANSPORTS, **own}):
        context = RingContext(ring.group, RingOptions(**options))
        assert context.transport == options["transport"]
        return attend(ring, case, context)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made = tmp_path_factory.mktemp("transport")
    (made / "gathered.py").write_text(code, encoding="utf-8")
    return str(made)


def test_the_suite_of_the_page_asks_all_that_it_says(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    ((suite, ranks),) = re.findall(r"```toml\n(# gathered.*--ranks (\d)\n.*?)```", text, re.DOTALL)
    (tmp_path / "gathered.toml").write_text(suite, encoding="utf-8")

    with patch.object(registry, "transports", lambda: {"gathered": "gathered:Gathered"}):
        entries = load(tmp_path / "gathered.toml").entries(int(ranks), "real")

    assert {entry.contestant.options.transport for entry in entries} == {"gathered"}
    assert {entry.contestant.partition for entry in entries} == {"contiguous", "zigzag", "striped"}
    assert {entry.case.window for entry in entries} == {(-1, -1), (40, 0)}
    assert all(entry.case.heads_kv < entry.case.heads_q for entry in entries)
    assert f"`0 failures in {sum(len(entry.directions) for entry in entries)} records`" in text


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("schedule", ["steps", "gather"])
def test_the_transport_of_the_page_is_right(ranks, folder, case, schedule):
    options = {"transport": "gathered", "schedule": schedule}
    answers = ranks.run(by_the_page, case, folder, options, world_size=case.world_size)
    assert faults(case, answers) == []


@pytest.mark.parametrize(
    ("name", "sentence"), [("broken", "importing nowhere:Nothing failed"), ("bare", "unsupported")]
)
def test_a_transport_that_cannot_be_loaded_is_a_sentence(ranks, folder, name, sentence):
    for answer in ranks.outcomes(by_the_page, CASES[0], folder, {"transport": name}):
        assert isinstance(answer, Raised)
        assert "TransportUnavailable" in answer.kinds, answer.traceback
        assert sentence in answer.text


REFUSALS = """
from ring_attn_bench import Unsupported
from gathered import Gathered

class AtOnce(Gathered):
    @staticmethod
    def unsupported(group):
        return "it needs another kind of ranks"

class WhenMade(Gathered):
    def __init__(self, group, options):
        raise Unsupported("refusing", "it has no gradients in " + options.gradients)
"""


def refused(ring: Ring, folder: str) -> list[str]:
    sys.path.insert(0, folder)
    own = {"at_once": "refusing:AtOnce", "when_made": "refusing:WhenMade"}
    place = WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )
    worker, reasons = BenchWorker(place), []
    case = bench_record.Case(
        batch=1, seqlen_total=64, world_size=ring.world_size, heads_q=1, heads_kv=1, head_dim=8,
        dtype="float32", causal=True,
    )  # fmt: skip
    with patch.object(registry, "transports", lambda: {**registry.TRANSPORTS, **own}):
        for name in own:
            contestant = bench_record.Contestant(
                backend="reference", partition="zigzag", options=RingOptions(name)
            )
            command = Prepare(
                case=case, contestant=contestant, directions=(bench_record.Direction.FORWARD,),
                seed=0,
            )  # fmt: skip
            answer = worker.execute(Envelope(about=name, command=command))
            reasons.append(str(answer.get("refused")))
    return reasons


def test_a_transport_that_refuses_is_an_unsupported_row_of_a_benchmark(ranks, folder):
    (Path(folder) / "refusing.py").write_text(REFUSALS, encoding="utf-8")

    for reasons in ranks.run(refused, folder):
        assert reasons == [
            "transport 'at_once': it needs another kind of ranks",
            "transport 'when_made': it has no gradients in float32",
        ]
