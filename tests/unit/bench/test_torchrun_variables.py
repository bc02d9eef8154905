"""What a shell has left in torchrun's variables, and where sockets lie: a sentence, or it works."""

import sys
from pathlib import Path

import pytest

from ring_attn_bench import cli
from ring_attn_bench.bench import team
from ring_attn_bench.cli import exits
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.workers import channel
from ring_attn_bench.workers.channel import Channel, Server

SOUND = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
BROKEN = [
    ("RANK", "a", "RANK is 'a', and torchrun sets it to a number from 0 to 0"),
    ("RANK", "-1", "RANK is '-1'"),
    ("RANK", "1", "RANK is '1'"),
    ("RANK", "", "RANK is ''"),
    ("WORLD_SIZE", "0", "WORLD_SIZE is '0', and torchrun sets it to a number from 1;"),
    ("WORLD_SIZE", "two", "WORLD_SIZE is 'two'"),
    ("MASTER_PORT", "99999", "MASTER_PORT is '99999', and torchrun sets it to a number from 0 to"),
    ("MASTER_ADDR", "", "MASTER_ADDR is '', and torchrun sets it to the name of a machine"),
    ("LOCAL_RANK", "cuda", "LOCAL_RANK is 'cuda'"),
]


def ended(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["ring-attn-bench", *words])
    monkeypatch.setattr(exits.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as done:
        cli.main()
    return done.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("name", "value", "sentence"), BROKEN)
@pytest.mark.parametrize("verb", ["bench", "check"])
def test_a_variable_that_torchrun_did_not_set_is_a_mistake(
    monkeypatch, capsys, verb, name, value, sentence
):
    for variable, sound in {**SOUND, name: value}.items():
        monkeypatch.setenv(variable, sound)
    code, said = ended(monkeypatch, capsys, verb, "--suite", "cpu")
    assert code == exits.Exit.MISTAKE
    assert sentence in said
    assert "unset TORCHELASTIC_RUN_ID" in said
    assert len(said.splitlines()) == 1


def test_processes_that_do_not_meet_are_a_mistake(monkeypatch, capsys):
    def apart(*given, **named):
        raise RuntimeError("The server socket has failed to listen.\nmore")

    monkeypatch.setattr(team.dist, "init_process_group", apart)
    for variable, sound in SOUND.items():
        monkeypatch.setenv(variable, sound)
    code, said = ended(monkeypatch, capsys, "bench", "--suite", "cpu")
    assert code == exits.Exit.MISTAKE
    assert "do not meet at 127.0.0.1:29500" in said
    assert "torch says: The server socket has failed to listen.\n" in said


def test_more_processes_than_gpus_are_told_as_what_the_machine_lacks(monkeypatch, capsys):
    monkeypatch.setattr(team.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(team.torch.cuda, "device_count", lambda: 2)
    for variable, sound in {**SOUND, "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(variable, sound)
    code, said = ended(monkeypatch, capsys, "bench", "--suite", "cpu")
    assert code == exits.Exit.LACKS
    assert "this machine has 2 GPUs" in said


def deep(tmp_path):
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    return folder / "socket"


def test_a_socket_may_lie_as_deep_as_any_file(tmp_path):
    path = deep(tmp_path)
    server = Server(path)
    ours = Channel.connect(path)
    theirs = server.accept(5.0)
    server.close()
    ours.send("a line")
    assert theirs.receive(5.0) == "a line"
    ours.close()
    theirs.close()


def test_where_that_cannot_be_tmpdir_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(channel, "_OPEN_FILES", Path("/nowhere"))
    with pytest.raises(InvalidArgument, match="set TMPDIR to a shorter one"):
        Server(deep(tmp_path))
