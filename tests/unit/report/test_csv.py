"""results.csv holds the rows, all of them and nothing else."""

from __future__ import annotations

import csv as plain_csv

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ring_attn_bench.report import csv
from ring_attn_bench.report.columns import COLUMNS
from ring_attn_bench.report.rows import rows

numbers = st.floats(min_value=1e-300, max_value=1e300)


@pytest.fixture(scope="session")
def sweep_csv(sweep_records, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "results.csv"
    csv.write(rows(sweep_records), path)
    return path


def lines(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(plain_csv.DictReader(file))


def test_a_file_reads_back_as_it_was(sweep_csv, sweep_records):
    assert csv.read(sweep_csv) == rows(sweep_records)


def test_the_head_names_the_columns(sweep_csv):
    with sweep_csv.open(encoding="utf-8") as file:
        assert tuple(file.readline().rstrip("\n").split(",")) == COLUMNS


def test_cells_that_do_not_apply_are_empty(sweep_csv):
    for cells in lines(sweep_csv):
        assert cells["softcap"] == ""
        if cells["status"] == "ok":
            assert float(cells["latency_ms"]) > 0
        else:
            assert (cells["latency_ms"], cells["tflops_per_gpu"]) == ("", "")
        if cells["direction"] == "forward":
            assert cells["dq_max_abs"] == ""


def test_no_cell_holds_a_word_for_nothing(sweep_csv):
    words = {"nan", "none", "null", "<na>", "inf", "-1", "n/a"}
    found = {cell.lower() for cells in lines(sweep_csv) for cell in cells.values()}
    assert found & words == set()


def test_booleans_are_true_and_false(sweep_csv):
    assert {cells["causal"] for cells in lines(sweep_csv)} == {"true", "false"}


def test_pandas_reads_it_without_help(sweep_csv):
    table = pd.read_csv(sweep_csv)
    assert table["causal"].dtype == bool
    assert table["latency_ms"].dtype == float
    assert table["latency_ms"].isna().sum() == (table["status"] != "ok").sum()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(latency=numbers, seconds=numbers, reason=st.text(st.characters(codec="utf-8")))
def test_numbers_and_words_survive(make_record, tmp_path, latency, seconds, reason):
    found = rows([make_record()])[0].model_copy(
        update={
            "latency_ms": latency, "seconds": seconds, "reason": " ".join(reason.split()) or None
        }
    )  # fmt: skip
    path = tmp_path / "results.csv"
    csv.write([found], path)
    assert csv.read(path) == (found,)


@pytest.mark.parametrize(
    "word",
    ["=HYPERLINK(1)", "-1", "'=1", "NA", "nan", "None", "true", "007", 'a "quoted", word', "a;b"],
)
def test_words_stay_words(make_record, tmp_path, word):
    found = rows([make_record()])[0].model_copy(update={"reason": word, "backend_version": word})
    csv.write([found], tmp_path / "results.csv")
    assert csv.read(tmp_path / "results.csv") == (found,)


def test_no_cell_of_words_is_a_formula_and_numbers_are_not_touched(make_record, tmp_path):
    found = rows([make_record()])[0].model_copy(
        update={"reason": "=HYPERLINK(1)", "run": "@SUM(1)", "seconds": -1.5}
    )
    csv.write([found], tmp_path / "results.csv")
    (cells,) = lines(tmp_path / "results.csv")

    assert (cells["reason"], cells["run"]) == ("'=HYPERLINK(1)", "'@SUM(1)")
    assert cells["seconds"] == "-1.5"
