"""The suite files are found in a checkout and in an installed wheel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ring_attn_bench import registry
from ring_attn_bench.bench import suite_files
from ring_attn_bench.bench.forecast import unavailable
from ring_attn_bench.bench.suite import load
from ring_attn_bench.errors import UnknownName
from tests.source_tree import table_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["checkout", "wheel"])
def configs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder of suites, where it lies in a checkout or in site-packages, and the module there."""
    package = tmp_path / "ring_attn_bench"
    folder = (tmp_path if request.param == "checkout" else package) / "configs"
    folder.mkdir(parents=True)
    for name in ("small.toml", "large.toml", "notes.md"):
        (folder / name).touch()
    monkeypatch.setattr(suite_files, "__file__", str(package / "bench" / "suite_files.py"))
    return folder


def test_names_are_those_of_the_toml_files(configs):
    assert suite_files.suite_names() == ("large", "small")


def test_path_is_the_file_of_that_name(configs):
    assert suite_files.suite_path("small") == configs / "small.toml"


def test_unknown_name_says_which_are_known(configs):
    with pytest.raises(UnknownName, match=r"Did you mean 'small'\? Known: large, small\."):
        suite_files.suite_path("smal")


def test_a_wheel_does_not_read_what_another_package_left_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "ring_attn_bench"
    for folder, name in ((tmp_path, "theirs"), (package, "ours")):
        (folder / "configs").mkdir(parents=True)
        (folder / "configs" / f"{name}.toml").touch()
    monkeypatch.setattr(suite_files, "__file__", str(package / "bench" / "suite_files.py"))
    assert suite_files.suite_names() == ("ours",)


def test_without_suites_there_are_no_names(tmp_path, monkeypatch):
    monkeypatch.setattr(
        suite_files, "__file__", str(tmp_path / "ring_attn_bench" / "bench" / "suite_files.py")
    )
    assert suite_files.suite_names() == ()


def test_the_suites_of_this_project_are_found():
    configs = Path(__file__).parents[3] / "configs"
    assert suite_files.suite_names() == tuple(sorted(path.stem for path in configs.glob("*.toml")))
    assert all(suite_files.suite_path(name).is_file() for name in suite_files.suite_names())


def test_the_suite_of_a_cpu_has_every_backend_and_peer_of_ours_that_a_cpu_can_run():
    if torch.cuda.is_available():
        pytest.skip("with a GPU those that need one can be loaded too")
    # as the file has them: other tests add names of their own to the tables
    backends, peers = (table_of(name) for name in ("BACKENDS", "PEERS"))
    ours = {*backends, *(f"{registry.PEER_PREFIX}{name}" for name in peers)}
    suite = load(suite_files.suite_path("cpu"))

    assert suite.backends == ours - unavailable(ours).keys()


def test_readme_and_script_name_the_backends_of_the_suite_of_a_gpu():
    suite = load(suite_files.suite_path("hopper"))
    for name in ("README.md", "run_comparison_tests.sh"):
        text = " ".join((ROOT / name).read_text().split())
        said = re.search(
            r"hopper[^.:]*(?:\.toml)?[^.]*? (?:are|compares) ([\w, ]+) and plain torch", text
        )
        assert {*said[1].split(", "), "reference"} == suite.backends
