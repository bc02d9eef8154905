"""What `list` and `env` say fits the terminal, and their commands can be typed as they are."""

import re
import shlex
import sys
import tomllib
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from ring_attn_bench import registry
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.machine import plug_ins, terminal
from ring_attn_bench.machine.plug_ins import Inventory, PlugIn

CHECKOUT = Path(__file__).parents[3]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
LOST = partial(PlugIn, status="unsupported")
REASON = "importing some_kernels_package.interface failed with ModuleNotFoundError: " * 3


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_fits_and_breaks_no_word(width):
    names = ("reference", "peer:ring_flash_attn[flash_attn_4]")

    shown = terminal.backends(Inventory({}, dict.fromkeys(names, LOST(reason=REASON))), width)

    longest = max(map(len, REASON.split()))
    assert max(map(len, shown.splitlines())) <= max(width, len(names[1]) + 10 + longest)
    assert set(REASON.split()) <= set(shown.split())


@pytest.mark.parametrize("gpu", [True, False])
def test_a_kernel_that_only_an_interpreter_can_run_here_is_no_yes(gpu):
    every = {
        "aten": PlugIn(summary="sums"),
        "triton": PlugIn(summary="sums", worker_environment={"cpu": {"TRITON_INTERPRET": "1"}}),
        "cudnn": LOST(reason="it is not here"),
    }

    shown = terminal.backends(Inventory({"gpu": "H" * gpu}, every), 120)

    here = dict(re.findall(r"^(\w+) +(yes|no|interpreted) ", shown, re.MULTILINE))
    triton = "yes" if gpu else "interpreted"
    assert {name: here[name] for name in every} == {"aten": "yes", "triton": triton, "cudnn": "no"}
    assert ("TRITON_INTERPRET=1" in shown) is not gpu


@pytest.mark.parametrize("gpu", [True, False])
def test_list_and_env_say_alike_what_a_command_is_good_for_here(gpu):
    command = COMMANDS["flash_attn"]
    environment = {"torch": "2", "gpu": "H" * gpu}
    lost = {"flash_attn_2": LOST(reason=f"it is not here; try: {command}")}

    both = terminal.backends(Inventory(environment, lost), 300), terminal.machine(environment, 300)

    for shown in both:
        assert command in shown
        assert f"`pip` is that of {sys.prefix}." in shown
        assert ("what these commands install needs one" in shown) is not gpu


def test_what_a_backend_says_to_try_is_what_env_says():
    files = [*(CHECKOUT / "backends").rglob("*.py")]
    tried = [x for file in files for x in re.findall(r"; try: (.{10})", file.read_text())]

    assert len(tried) >= 5
    assert {start.startswith(("{COMMANDS[", "{command")) for start in tried} == {True}


def test_the_list_has_every_transport_with_what_it_needs_or_why_it_is_none(monkeypatch):
    table = {**registry.TRANSPORTS, "broken": "nowhere:Nothing", "bare": "string:Template"}
    monkeypatch.setattr(registry, "transports", lambda: table)
    told = {name: plug_ins._transport(name) for name in table}

    shown = terminal.backends(Inventory({}, transports=told), 120)

    p2p, broken, bare = (
        next(line for line in shown.splitlines() if line.startswith(name))
        for name in ("p2p", "broken", "bare")
    )
    assert re.match(r"p2p +yes +torch.distributed's messages .* NCCL or gloo", p2p)
    assert re.match(r"broken +no +importing nowhere:Nothing failed", broken)
    assert re.match(r"bare +no +it is no transport: it has no unsupported", bare)
    assert "has to be asked for by name" in shown


def test_what_is_missing_comes_with_commands_that_ask_no_index_for_this_project():
    shown = terminal.machine({"torch": "2", "gpu": None}, 80)

    for command in COMMANDS.values():
        assert command in shown
        assert shlex.split(command.rpartition(" && ")[2])[:2] == ["pip", "install"]
        assert PROJECT["name"] not in command
    everything = {"torch": "2", "gpu": None, **dict.fromkeys(COMMANDS, "1")}
    assert "pip install" not in terminal.machine(everything, 80)


def test_a_command_names_the_version_that_the_extra_does():
    wanted = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    versions = {
        re.split(r"[>=;\[ ]", requirement)[0]: re.search(r">=([^;]+)", requirement)[1]
        for requirement in wanted
    }
    known = {name: versions[name] for x in COMMANDS if (name := x.replace("_", "-")) in versions}

    assert set(COMMANDS) - {name.replace("-", "_") for name in known} == {
        "flag_gems",
        "flash_attn_3",
        "flashinfer_python",
    }
    for name, version in known.items():
        assert f">={version}'" in COMMANDS[name.replace("-", "_")]
