"""What an error says ends in one full stop, whatever else's sentence is a part of it."""

import json
import re

import pytest

from ring_attn_bench import RingOptions, registry
from ring_attn_bench.bench.suite import load
from ring_attn_bench.errors import RingAttnBenchError, clause
from ring_attn_bench.records import finding, outcome, record
from ring_attn_bench.report import csv as rows
from ring_attn_bench.tune import run as tune
from ring_attn_bench.tune.messages import Loaded

GRID = {
    "backends": '["reference"]', "seqlen_per_gpu": "[16]", "heads": '["2:1"]', "head_dim": "[8]",
    "dtype": '["float32"]',
}  # fmt: skip
MISTAKES = {
    "transport": '["pp"]', "schedule": '["step"]', "gradients": '["half"]', "slots": "[0]",
    "grouping": "[3]", "handshake": "[3]", "partitions": '["zag"]', "backends": '["a", "b"]',
    "heads": '["3:2"]', "head_dim": "[0]", "dtype": '["f"]', "causal": "[1]", "window": "[[1]]",
    "softcap": "[nan]", "directions": '["fwd"]', "seqlen_per_gpu": "[3]", "unknown": "1",
}  # fmt: skip


def suite_with(key, value):
    def raises(folder):
        lines = "\n".join(f"{k} = {v}" for k, v in {**GRID, key: value}.items())
        (folder / "suite.toml").write_text(f'name = "s"\n[[grid]]\n{lines}\n')
        load(folder / "suite.toml").entries(2, "real")

    return raises


def file_with(text, read):
    def raises(folder):
        (folder / "file").write_text(text)
        list(read(folder / "file"))

    return raises


def unavailable(folder):
    class Hand:
        def load(self):
            return Loaded(unavailable="no module. It says so itself.")

    tune._loaded(Hand(), "kernel")


def bad_record(**changes):
    case = {
        "batch": 1, "seqlen_total": 8, "world_size": 2, "heads_q": 1, "heads_kv": 1, "head_dim": 8,
        "dtype": "float32", "causal": True,
    }  # fmt: skip
    options = {"transport": "auto", **changes.pop("options", {})}
    who = {"backend": "aten", "partition": "zigzag", "options": options, "played": "real"}
    line = {"schema_version": 2, "run": "r", "suite": "s", "case": case, "contestant": who,
            "direction": "forward", "status": "error", **changes}  # fmt: skip
    return json.dumps(line) + "\n"


ERRORS = {
    **{key: suite_with(key, value) for key, value in MISTAKES.items()},
    "toml": file_with("name = ", load),
    "no suite": lambda folder: load(folder / "none.toml"),
    "a record without a reason": file_with(bad_record(), record.read),
    "a record's option": file_with(bad_record(options={"schedule": "x"}), record.read),
    "a record's slots": file_with(bad_record(options={"slots": 0}), record.read),
    "a later record": file_with('{"schema_version": 9}\n', record.read),
    "a matrix": file_with("backend,feature,direction,verdict\na,full,up,ok\n", finding.read),
    "rows": file_with("case,status\na,b\n", rows.read),
    "outcomes": file_with("backend\na\n", outcome.read),
    "a name": lambda _: registry.check_known("atan"),
    "an option": lambda _: RingOptions(grouping=3, transport="p2p"),
    "two options": lambda _: RingOptions(grouping=(3,), schedule="steps"),
    "a kernel that does not load": unavailable,
}


@pytest.mark.parametrize("what", ERRORS)
def test_an_error_ends_in_one_full_stop(what, tmp_path):
    with pytest.raises(RingAttnBenchError) as raised:
        ERRORS[what](tmp_path)

    text = str(raised.value)
    assert text.endswith((".", ")"))
    assert not re.search(r"(?<!\.)\.[.;,)](?!\.)|\. at ", text)


def test_a_sentence_loses_its_full_stop_and_no_dots_inside_another():
    assert clause("No. Known: auto, p2p.") == "No. Known: auto, p2p"
    assert clause("one, two, ...") == "one, two, ..."
