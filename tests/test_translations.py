"""A page in another language says what the English one says: headings, commands, figures, links."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PAGES = {
    "README.zh-CN.md": "README.md",
    **{f"docs/{name}.zh-CN.md": f"docs/{name}.md" for name in ("flash-attn", "moving")},
}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_blocks(page):
    return BLOCK.sub("", page)


def headings(page):
    return [len(level) for level in re.findall(r"^(#+) ", without_blocks(page), re.MULTILINE)]


def commands(page):
    """Blocks of code without what stands behind a `#`, which is for people."""
    return [
        (language, [line.partition("#")[0].rstrip() for line in code.splitlines()])
        for language, code in BLOCK.findall(page)
    ]


def tables(page):
    """The numbers of each row of a table."""
    return [NUMBER.findall(line) for line in page.splitlines() if line.startswith("|")]


def figures(page):
    """How often each number stands in the text, beside tables, code and links."""
    lines = [line for line in without_blocks(page).splitlines() if not line.startswith("|")]
    return sorted(NUMBER.findall(LINK.sub("", CODE.sub("", "\n".join(lines)))))


def names(page):
    return sorted(CODE.findall(without_blocks(page).replace("\n", " ")))


def links(page):
    """Without the first one, from one language to the other."""
    return sorted(LINK.findall(page)[1:])


ASKED = {
    "headings": headings, "commands": commands, "tables": tables, "figures": figures,
    "names": names, "links": links,
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(("page", "original"), PAGES.items())
def test_a_translation_has_what_its_original_has(page, original, asked):
    translated, written = (
        (CHECKOUT / name).read_text(encoding="utf-8") for name in (page, original)
    )  # fmt: skip

    assert asked(written) or original != "README.md"  # which has some of each
    assert asked(translated) == asked(written)


@pytest.mark.parametrize(("page", "original"), PAGES.items())
def test_each_page_leads_to_the_other(page, original):
    for one, other in ((page, original), (original, page)):
        first = LINK.findall((CHECKOUT / one).read_text(encoding="utf-8"))[0]
        assert first == Path(other).name


CHANGES = {
    "headings": "\n## More\n",
    "commands": "\n```console\nmore\n```\n",
    "tables": "\n| 7 |\n",
    "figures": "\n7 %\n",
    "names": "\n`more`\n",
    "links": "\n[more](docs/more.md)\n",
}


@pytest.mark.parametrize("asked", CHANGES)
def test_what_only_one_of_them_has_is_noticed(asked):
    original = (CHECKOUT / "README.md").read_text(encoding="utf-8")

    assert ASKED[asked](original + CHANGES[asked]) != ASKED[asked](original)
