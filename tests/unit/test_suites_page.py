"""docs/suites.md has every key of a suite, with the default that it has."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from ring_attn_bench.bench.suite import Check, Grid, Suite, Timing
from ring_attn_bench.suites import suite_names

PAGE = (Path(__file__).parents[2] / "docs" / "suites.md").read_text(encoding="utf-8")
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
                       "landing_tokens"):  # fmt: skip
                written = [None if value == "unset" else value for value in written]
            assert json.loads(json.dumps(default)) == written


def test_the_page_names_the_suites_that_come_along_and_its_example_is_one():
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    suite = Suite.model_validate(tomllib.loads(example))

    assert suite.entries(4, "real")
    assert all(f"`{name}`" in PAGE for name in suite_names())
