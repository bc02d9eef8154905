"""A plug-in that ends or hangs its process when it is imported costs its own line, no other's."""

import json
import re
import tempfile

import pytest
import torch

from ring_attn_bench.errors import NoAnswer
from ring_attn_bench.machine import as_json, plug_ins, terminal
from ring_attn_bench.machine.environment import describe
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers import pool
from tests.patience import limit

RIGHT = """
from ring_attn_backends.reference import ReferenceBackend
class Kind(ReferenceBackend):
    '''Is right.'''
    name = "{name}"
    worker_environment = {{"cpu": {{"PLANTED": "1"}}}}
    def offer(self): ...
    def trial_launch(self, trial, tensors, block, score, *, add): ...
"""
BACKENDS = {
    "a_aborts": "import os; os.abort()",
    "b_exits": "import os, sys; print('its last word', file=sys.stderr); os._exit(0)",
    "c_hangs": "import time; time.sleep(1000)",
    "d_is_odd": "class Kind: worker_environment = 7",
    "e_is_right": RIGHT.format(name="e_is_right"),
}
TRANSPORT = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """What they all say, installed as other people's packages are."""
    folder = tmp_path_factory.mktemp("planted")
    for name, source in {**BACKENDS, "slow_boat": TRANSPORT}.items():
        (folder / f"planted_{name}.py").write_text(source)
    info = folder / "planted_plug_ins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-plug-ins\nVersion: 1.0\n")
    backends = "\n".join(f"{name} = planted_{name}:Kind" for name in BACKENDS)
    (info / "entry_points.txt").write_text(
        f"[ring_attn_bench.backends]\n{backends}\n"
        "[ring_attn_bench.transports]\nslow_boat = planted_slow_boat:Kind\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        patch.setattr(plug_ins, "IMPORT_SECONDS", limit(3))
        machine = plug_ins.ask([*BACKENDS, "aten", "reference"], ["slow_boat", "p2p"])
        return machine, json.loads(as_json.backends(machine))


def test_the_list_has_a_line_for_each_that_ended_or_hung_its_process_and_all_others(listed):
    machine, kept = listed
    told = machine.contestants

    assert {name: told[name].status for name in BACKENDS} == {
        "a_aborts": Status.ERROR, "b_exits": Status.ERROR, "c_hangs": Status.TIMEOUT,
        "d_is_odd": Status.UNSUPPORTED, "e_is_right": Status.OK,
    }  # fmt: skip
    text = terminal.backends(machine, 400)
    for name, here, what in (
        ("a_aborts", "no", r"when it was loaded, the process died \(SIGABRT\)"),
        ("b_exits", "no", r".*the process died \(exit code 0\); its last words: its last word"),
        ("c_hangs", "no", r"when it was loaded, no answer within .* s; the process was killed"),
        ("d_is_odd", "no", r"loading it failed with ValidationError"),
        ("e_is_right", "(interpreted|yes)", r"Is right\."),
        ("slow_boat", "no", r"when it was loaded, the process died \(SIGKILL\)"),
        ("aten", "yes", r"\w"),
        ("p2p", "yes", r"\w"),
    ):
        assert re.search(rf"^{name} +{here} +{what}", text, re.MULTILINE), name
    backends = {line["name"]: line for line in kept["backends"]}
    assert "SIGABRT" in backends["a_aborts"]["unavailable"]
    assert backends["e_is_right"] == {
        "name": "e_is_right", "target": "planted_e_is_right:Kind", "summary": "Is right.",
        "unavailable": None,
    }  # fmt: skip


def test_a_run_is_told_who_refuses_and_what_processes_need_and_that_one_died_stays_for_its_row(
    listed,
):
    machine, _ = listed

    told = machine.contestants
    assert "d_is_odd" in machine.refusals
    assert not {"a_aborts", "b_exits", "c_hangs", "e_is_right", "reference"} & set(machine.refusals)
    assert machine.environment["torch"]
    assert machine.variables("a_aborts") == machine.variables("reference") == {}
    assert machine.device == "cuda" or machine.variables("e_is_right") == {"PLANTED": "1"}
    assert [told[name].tunable for name in ("a_aborts", "e_is_right", "reference")] == [
        None, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("broken_torch", "said"),
    [
        ("import os; os._exit(3)", r"died \(exit code 3\)"),
        ("raise KeyError('it')", r"died \(exit code 1\); its last words: KeyError: 'it'"),
        ("import time; time.sleep(1000)", "no answer within .* s; the process was killed"),
    ],
)
def test_a_process_that_is_lost_before_any_plug_in_is_told_of_and_leaves_nothing(
    monkeypatch, tmp_path, broken_torch, said
):
    (tmp_path / "torch.py").write_text(broken_torch)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(pool, "LOAD_SECONDS", limit(3))

    with pytest.raises(NoAnswer, match=rf"cannot find out what this machine has: .*{said}"):
        plug_ins.ask(["reference"])
    assert list((tmp_path / "temporary").iterdir()) == []


def test_facts_come_as_they_are_whatever_else_is_printed(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, here = plug_ins.ask().environment, describe() | {"torch": str(torch.__version__)}

    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in here.items()
    }
    assert found | {"date": None} == here | {"date": None}
