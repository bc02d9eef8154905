"""A command line in this process, on a machine where every measurement is right at once."""

import shlex

import pytest
from typer.testing import CliRunner

from ring_attn_bench import cli
from ring_attn_bench.bench import start
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.machine.plug_ins import PlugIn
from ring_attn_bench.records.record import append

SUITE = """
name = "small"
[[grid]]
backends = ["reference"]
seqlen_per_gpu = [8]
heads = ["2:1"]
head_dim = [8]
dtype = ["float32"]
"""
CANNOT = {"cudnn": "there is no CUDA device", "flash_attn_4": "it is not installed."}
MACHINE = {"gpu": None, "gpu_count": 0, "cpu": "a CPU", "torch": "2"}


@pytest.fixture
def machine(monkeypatch, tmp_path, make_record):
    """A CPU on which every measurement is right at once; `ran` is what was measured."""

    class Machine:
        ran = ()
        asked = 0
        ends_after = None
        ends_by = KeyboardInterrupt()

        def execute(self, run, entries, machine, rings, watcher):
            run.folder.mkdir(exist_ok=True, parents=True)
            todo = [(entry, direction) for entry in entries for direction in entry.directions]
            for entry, direction in todo[: self.ends_after]:
                done = make_record(
                    case=entry.case, contestant=entry.contestant, direction=direction,
                    command=run.record(entry=entry, direction=direction, status="ok").command,
                )  # fmt: skip
                append(run.records, done)
                self.ran = (*self.ran, (entry.contestant.backend, direction.value))
            if self.ends_after is not None:
                raise self.ends_by

        def ask(self, names):
            self.asked += 1
            lost = {x: PlugIn(status="unsupported", reason=CANNOT[x]) for x in names if x in CANNOT}
            return plug_ins.Inventory(MACHINE, lost)

    found = Machine()
    monkeypatch.setattr(start, "execute", found.execute)
    monkeypatch.setattr(plug_ins, "ask", found.ask)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SUITE)
    return found


@pytest.fixture
def typed(monkeypatch):
    """Runs a command line in this process."""

    def run(line):
        name, *words = shlex.split(line)
        monkeypatch.setattr("sys.argv", [name, *words])
        return CliRunner().invoke(cli.app, words)

    return run
