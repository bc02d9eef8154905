"""Pages name files and folders that are there, by the end of their path at least."""

import re
from pathlib import Path

import pytest

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
