"""Pages name files and folders that are there, by the end of their path at least, and show what
commands print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import limit

CHECKOUT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "docs/design.md", "tests/README.md")
SOURCES = ("ring_attn_bench", "backends", "tests", "docs", "scripts", "configs", "results")
NOT_OURS = {"src/"}
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b")


@pytest.fixture(scope="module")
def paths():
    found = {path for folder in SOURCES for path in (CHECKOUT / folder).rglob("*")}
    return {f"/{path.relative_to(CHECKOUT).as_posix()}{'/' * path.is_dir()}" for path in found} | {
        f"/{path.name}{'/' * path.is_dir()}" for path in CHECKOUT.iterdir()
    }


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_that_a_page_names_are_there(page, paths):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|\.sh|/))`", text)) - NOT_OURS
    named = {name.removeprefix("./") for name in named if not PLACEHOLDER.search(name)}

    assert named
    assert {name for name in named if not any(x.endswith(f"/{name}") for x in paths)} == set()


SHOWN = [
    pytest.param(command, shown, id=f"{page.name}: {command}")
    for page in sorted((CHECKOUT / "docs").glob("*.md"))
    for command, shown in re.findall(
        r"^```text\n\$ ring-attn-bench (.+)\n((?:.*\n)+?)(?:\.\.\.\n)?```$",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
]


def test_there_are_pages_that_show_what_a_command_prints():
    assert SHOWN


@pytest.mark.parametrize(("command", "shown"), SHOWN)
def test_a_command_that_a_page_shows_prints_what_stands_below_it(command, shown):
    """Paste the new output where records are others."""
    done = subprocess.run(
        [sys.executable, "-m", "ring_attn_bench", *shlex.split(command)],
        capture_output=True, text=True, timeout=limit(60), env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(shown)
