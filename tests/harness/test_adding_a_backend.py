"""The page on adding a backend does what it says: its two files are installed and asked for."""

import re
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-backend.md"


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


def test_the_plugin_is_listed_by_the_first_line_of_its_docstring(plugin):
    done = plugin.run("list")

    assert re.search(r"my_attention\s+yes\s+Plain torch over whole", done.stdout)


def test_the_quick_check_finds_the_plugin_right(plugin):
    done = plugin.run("check", "--quick", "--backend", "my_attention")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_attention" in done.stdout


def test_the_plugin_runs_on_a_ring(plugin):
    suite = plugin.suite("my_attention")
    done = plugin.run("check", "--suite", str(suite), "--out", str(plugin.out))

    assert done.returncode == 0, done.stdout + done.stderr
    assert {record.status.value for record in plugin.records().values()} == {"ok"}
