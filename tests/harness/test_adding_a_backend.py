"""The page on adding a backend does what it says: its two files are installed and asked for."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.patience import limit

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-backend.md"


@pytest.fixture
def plugin(program, tmp_path):
    """The page's package, importable and with its entry point on record, as pip leaves it."""
    folder = tmp_path / "site"
    information = folder / "my_attention-1.0.dist-info"
    information.mkdir(parents=True)
    files = blocks()
    (folder / "my_attention.py").write_text(files["my_attention.py"])
    project = tomllib.loads(files["pyproject.toml"])["project"]
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n".join(lines))
    program.environment["PYTHONPATH"] += f":{folder}"
    return program


def blocks():
    """The page's code blocks that begin with a file's name."""
    found = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return dict(found)


def test_the_page_has_both_files():
    assert set(blocks()) == {"pyproject.toml", "my_attention.py"}


def commands():
    """What the page says to type, but for the installation, which the fixture has done."""
    (shown,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for line in shown.splitlines() if not line.startswith("pip install")]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[1:]))
def test_every_command_of_the_page_works_as_it_is_written(plugin, words):
    assert words[0] == "ring-attn-bench"
    done = plugin.run(*words[1:])

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(SHOWN[words[1]], done.stdout)


SHOWN = {
    "list": r"my_attention\s+yes\s+Plain torch over whole",
    "quick": r"my_attention\s+zigzag\s+ok",
    "probe": r"\d+ ok",
    "bench": r"my_attention",
}
"""By verb, what the plug-in looks like in its answer."""


def test_the_module_inside_this_repository_passes_its_conformance_as_the_page_says(tmp_path):
    without = shutil.ignore_patterns("__pycache__")
    for name in ("ring_attn_bench", "backends", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=without)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "backends" / "ring_attn_backends"
    (package / "my_attention.py").write_text(blocks()["my_attention.py"])
    line = re.search(r'`("my_attention": "[\w.:]+",)`', PAGE.read_text())[1]
    table = (package / "__init__.py").read_text()
    added = table.replace("BACKENDS = {\n", f"BACKENDS = {{\n    {line}\n")
    (package / "__init__.py").write_text(added)
    tests = re.search(r"`\./run_tests\.sh (.*my_attention)`", PAGE.read_text())[1].split()
    words = [sys.executable, "-m", "pytest", "--hypothesis-profile=ci", "-q", *tests]
    path = f"{tmp_path}:{package.parent}"
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        words, capture_output=True, text=True, timeout=limit(240), cwd=tmp_path,
        env=environment, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d{2,} passed", done.stdout)
