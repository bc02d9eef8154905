"""What programs read: one object on standard output, whose form is documented and stays."""

import json
from math import inf, nan

import pytest

from ring_attn_bench.cli import report
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.machine import as_json
from ring_attn_bench.machine.plug_ins import Inventory, PlugIn
from ring_attn_bench.records.record import append
from ring_attn_bench.records.status import Status
from ring_attn_bench.registry import TRANSPORTS, backends, peers
from ring_attn_bench.report import as_json as rows_as_json
from ring_attn_bench.report.columns import COLUMNS
from ring_attn_bench.report.rows import rows


@pytest.fixture
def shown(tmp_path, capsys, make_record):
    """What `report --json` prints of a right record and a wrong one."""
    path = tmp_path / "records.jsonl"
    append(path, make_record())
    append(path, make_record(status=Status.ERROR, reason="it died"))
    report.report(path, tmp_path / "out", as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_report_is_its_rows_with_the_columns_of_results_csv(shown):
    assert set(shown) == {"schema", "failures", "rows"}
    assert shown["schema"] == 1
    for row in shown["rows"]:
        assert tuple(row) == COLUMNS


def test_numbers_are_numbers_and_what_is_empty_is_null(shown):
    assert shown["failures"] == 1
    (bad,) = [row for row in shown["rows"] if row["status"] == "error"]
    assert bad["reason"] == "it died"
    assert bad["latency_ms"] is None
    assert bad["world_size"] > 0


def test_the_list_is_every_backend_peer_and_transport_with_why_it_cannot_run():
    every = dict.fromkeys((*peers(), *sorted(backends())), PlugIn(summary="sums"))
    told = json.loads(as_json.backends(Inventory({}, every, dict.fromkeys(TRANSPORTS, PlugIn()))))

    assert told["schema"] == 1
    names = {kind: [line["name"] for line in told[kind]] for kind in told if kind != "schema"}
    assert names == {
        "backends": sorted(backends()), "peers": list(peers()), "transports": list(TRANSPORTS),
    }  # fmt: skip
    reference = next(line for line in told["backends"] if line["name"] == "reference")
    assert set(reference) == {"name", "target", "summary", "unavailable"}
    assert reference["unavailable"] is None


def test_the_machine_is_what_it_has_and_the_commands_for_what_it_lacks():
    told = json.loads(as_json.machine({"gpu": None, "torch": "2", "flash_attn": "2.8"}))

    assert told["machine"] == {"gpu": None, "torch": "2", "flash_attn": "2.8"}
    assert told["missing"] == {name: x for name, x in COMMANDS.items() if name != "flash_attn"}


def test_a_number_that_is_not_finite_is_null(make_record, make_case):
    def refused(word):
        raise AssertionError(f"{word} is no JSON")

    record = make_record(case=make_case(softcap=inf), seconds=nan)

    (row,) = json.loads(rows_as_json.text(rows([record])), parse_constant=refused)["rows"]

    assert row["softcap"] is row["seconds"] is None
    assert row["latency_ms"] > 0
