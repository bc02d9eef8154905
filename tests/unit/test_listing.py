"""What `list` and `env` say fits the terminal, and their commands can be typed as they are."""

import re
import shlex
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from ring_attn_bench import registry
from ring_attn_bench.bench import listing
from ring_attn_bench.install import COMMANDS
from ring_attn_bench.registry import Listing

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
REASON = "importing some_kernels_package.interface failed with ModuleNotFoundError: " * 3


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_fits_and_breaks_no_word(monkeypatch, width):
    names = ("reference", "peer:ring_flash_attn[flash_attn_4]")
    found = tuple(Listing(name, "module:Class", "", REASON) for name in names)
    monkeypatch.setattr(registry, "listing", lambda: found)

    shown = listing.backends(width)

    longest = max(map(len, REASON.split()))
    assert max(map(len, shown.splitlines())) <= max(width, len(names[1]) + 10 + longest)
    assert set(REASON.split()) <= set(shown.split())


def test_the_list_has_every_transport_with_what_it_needs_or_why_it_is_none(monkeypatch):
    table = {**registry.TRANSPORTS, "broken": "nowhere:Nothing", "bare": "string:Template"}
    monkeypatch.setattr(registry, "transports", lambda: table)
    monkeypatch.setattr(registry, "listing", lambda: ())

    shown = listing.backends(120)

    p2p, broken, bare = (
        next(line for line in shown.splitlines() if line.startswith(name))
        for name in ("p2p", "broken", "bare")
    )
    assert re.match(r"p2p +yes +torch.distributed's messages .* NCCL or gloo", p2p)
    assert re.match(r"broken +no +importing nowhere:Nothing failed", broken)
    assert re.match(r"bare +no +it is no transport: it has no unsupported", bare)
    assert "has to be asked for by name" in shown


def test_what_is_missing_comes_with_commands_that_ask_no_index_for_this_project():
    shown = listing.machine({"torch": "2", "gpu": None}, 80)

    for command in COMMANDS.values():
        assert command in shown
        assert shlex.split(command)[:2] == ["pip", "install"]
        assert PROJECT["name"] not in command
    everything = {"torch": "2", "gpu": None, **dict.fromkeys(COMMANDS, "1")}
    assert "pip install" not in listing.machine(everything, 80)


def test_a_command_names_the_version_that_the_extra_does():
    wanted = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    versions = {
        re.split(r"[>=;\[ ]", requirement)[0]: re.search(r">=([^;]+)", requirement)[1]
        for requirement in wanted
    }
    known = {name: versions[name] for x in COMMANDS if (name := x.replace("_", "-")) in versions}

    assert set(COMMANDS) - {name.replace("-", "_") for name in known} == {"flag_gems"}
    for name, version in known.items():
        assert f">={version}'" in COMMANDS[name.replace("-", "_")]
