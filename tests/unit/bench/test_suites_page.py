"""docs/suites.md has every key of a suite, with the default that it has."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from ring_attn_bench.bench.grid import Grid
from ring_attn_bench.bench.suite import Check, Suite, Timing
from ring_attn_bench.bench.suite_files import suite_names
from ring_attn_bench.errors import SuiteError

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "suites.md").read_text(encoding="utf-8")
PAGES = sorted(DOCS.glob("*.md"))
TABLES = {"The suite": Suite, "[timing]": Timing, "[check]": Check, "[[grid]]": Grid}
IN_WORDS = {"by the machine", "the next table", "the table after it"}


def rows(title):
    """Key to default, as the tables under a heading have them."""
    _, _, section = PAGE.partition(f"\n## {title}\n")
    section = section.partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("title", TABLES)
def test_the_page_has_every_key_and_no_other(title):
    assert rows(title).keys() == TABLES[title].model_fields.keys()


@pytest.mark.parametrize("title", TABLES)
def test_the_page_has_the_default_of_every_key(title):
    for key, said in rows(title).items():
        default = TABLES[title].model_fields[key].default
        if said == "must be given":
            assert default is PydanticUndefined
        elif said not in IN_WORDS:
            written = tomllib.loads(f"{key} = {said.strip('`')}")[key]
            if key in ("transport", "slots", "grouping", "gradients", "handshake", "schedule",
                       "landing_tokens", "queries", "page", "rotary", "head_dim_v",
                       "documents"):  # fmt: skip
                written = [None if value == "unset" else value for value in written]
            assert json.loads(json.dumps(default)) == written


def examples():
    """By name, the suites that the page shows."""
    found = re.findall(r"```toml\n# (\S+\.toml): .*\n((?:.*\n)*?)```", PAGE)
    return {name: Suite.model_validate(tomllib.loads(text)) for name, text in found}


def test_the_page_names_the_suites_that_come_along():
    assert all(f"`{name}`" in PAGE for name in suite_names())


@pytest.mark.parametrize(
    ("ranks", "played"), [(1, "real"), (2, "real"), (4, "loopback"), (8, "real")]
)
def test_the_first_example_is_dealt_to_any_number_of_ranks(ranks, played):
    assert list(examples()) == ["my.toml", "groups.toml", "cache.toml", "packed.toml"]
    assert examples()["my.toml"].entries(ranks, played)


def test_the_example_with_groups_takes_the_ranks_that_its_command_names():
    assert "check --suite groups.toml --ranks 4" in PAGE
    assert examples()["groups.toml"].entries(4, "real")
    with pytest.raises(SuiteError, match="grouping"):
        examples()["groups.toml"].entries(2, "real")


def test_the_example_of_a_cache_is_over_one_on_any_number_of_ranks():
    for ranks in (1, 2, 8):
        found = examples()["cache.toml"].entries(ranks, "real")
        assert all(entry.case.cache is not None for entry in found)


def test_slots_are_landing_areas_and_nothing_else_is_called_so_on_any_page():
    words = {page.name: " ".join(page.read_text(encoding="utf-8").split()) for page in PAGES}

    assert "landing areas exist at once are the *slots*" in words["design.md"]
    assert [name for name, text in words.items() if text.count("*slots*")] == ["design.md"]
    assert [name for name, text in words.items() if re.search(r"\bslot\b", text)] == []
