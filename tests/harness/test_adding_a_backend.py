"""The page on adding a backend does what it says: its two files are installed and asked for."""

import re
import shlex
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
    "check": r"my_attention\s+zigzag\s+ok|\d+ ok",
    "bench": r"my_attention",
}
"""By verb, what the plug-in looks like in its answer."""
