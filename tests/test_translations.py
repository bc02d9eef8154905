"""A page in another language says what the English one says: headings, commands, figures, links."""

import posixpath
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
GUIDES = (
    "adding-a-backend", "choosing", "comparing", "flash-attn", "integrations", "moving",
    "promises", "suites", "troubleshooting",
)  # fmt: skip
PAGES = {
    "README.zh-CN.md": "README.md",
    **{f"docs/{name}.zh-CN.md": f"docs/{name}.md" for name in GUIDES},
}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
ITALICS = re.compile(r"(?<!\*)\*(\w[^*\n]*)\*(?!\*)")
NAMED = re.compile(r"[\w-]+\.(?:py|toml)\b|--\S+")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HAN = "[\u4e00-\u9fff]"
TORN = re.compile(rf"{HAN}\**\n *[*\[]*{HAN}")
"""A line that ends inside of Chinese words, where a browser puts a space."""


def read(name):
    return (CHECKOUT / name).read_text(encoding="utf-8")


def without_blocks(page):
    return BLOCK.sub("", page)


def titles(page):
    """Each heading's level and words."""
    return re.findall(r"^(#+) (.*)$", without_blocks(page), re.MULTILINE)


def headings(page):
    return [len(level) for level, _ in titles(page)]


def commands(page):
    """Blocks of code; of what stands behind a `#`, which is for people, files and options alone:
    `# ten.py, started by: torchrun --nproc-per-node=2 ten.py` is how others run it."""
    return [
        (language, [(run.rstrip(), NAMED.findall(said)) for run, _, said in lines])
        for language, block in BLOCK.findall(page)
        for lines in [[line.partition("#") for line in block.splitlines()]]
    ]


def tables(page):
    """The numbers of each row of a table."""
    return [NUMBER.findall(line) for line in page.splitlines() if line.startswith("|")]


def figures(page):
    """How often each number stands in the text, beside tables, code and links."""
    lines = [line for line in without_blocks(page).splitlines() if not line.startswith("|")]
    return sorted(NUMBER.findall(LINK.sub("", CODE.sub("", " ".join(lines)))))


def names(page):
    return sorted(CODE.findall(" ".join(without_blocks(page).split())))


def quoted(page):
    """What stands in italics, such as what the program says, which it says in English."""
    return set(ITALICS.findall(CODE.sub("", without_blocks(page)).lower()))


def anchors(page):
    """What GitHub calls each heading in an address, in their order."""
    words = (re.sub(r"[^\w\- ]", "", title.lower()) for _, title in titles(page))
    return [title.replace(" ", "-") for title in words]


def place(link, name):
    """Where a link of the page `name` leads, alike in both languages: the original's path, and
    which heading of it."""
    path, _, anchor = link.partition("#")
    if "://" in path:
        return link
    to = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    if to not in {*PAGES, *PAGES.values()} or not anchor:
        return PAGES.get(to, to) + f"#{anchor}" * bool(anchor)
    known = anchors(read(to))
    return f"{PAGES.get(to, to)}#{known.index(anchor) if anchor in known else anchor}"


def links(page, name):
    """Without the first one, from one language to the other."""
    return sorted(place(link, name) for link in LINK.findall(page)[1:])


def left(page, name):
    """Links of a translation, but the first, to pages that its own language has too."""
    paths = (link.partition("#")[0] for link in LINK.findall(page)[1:])
    folder = posixpath.dirname(name)
    return [x for x in paths if posixpath.normpath(posixpath.join(folder, x)) in PAGES.values()]


ASKED = {
    "headings": headings, "commands": commands, "tables": tables, "figures": figures,
    "names": names,
}  # fmt: skip


def test_every_page_in_another_language_is_held_against_its_original():
    found = {x.relative_to(CHECKOUT).as_posix() for x in CHECKOUT.glob("docs/*.zh-CN.md")}

    assert found | {"README.zh-CN.md"} == PAGES.keys()


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(("page", "original"), PAGES.items())
def test_a_translation_has_what_its_original_has(page, original, asked):
    written = asked(read(original))

    assert written or original != "README.md"  # which has some of each
    assert asked(read(page)) == written


@pytest.mark.parametrize(("page", "original"), PAGES.items())
def test_what_a_translation_quotes_in_english_is_quoted_by_its_original(page, original):
    english = {words for words in quoted(read(page)) if words.isascii()}

    assert english <= quoted(read(original))
    assert english or "troubleshooting" not in page


@pytest.mark.parametrize(("page", "original"), PAGES.items())
def test_a_translation_leads_where_its_original_leads(page, original):
    assert links(read(page), page) == links(read(original), original)


@pytest.mark.parametrize("page", PAGES)
def test_a_translation_leads_to_pages_in_its_language_where_there_are_some(page):
    assert left(read(page), page) == []


@pytest.mark.parametrize(("page", "original"), PAGES.items())
def test_each_page_leads_to_the_other(page, original):
    for one, other in ((page, original), (original, page)):
        assert LINK.findall(read(one))[0] == Path(other).name


CHANGES = {
    "headings": "\n## More\n",
    "commands": "\n```console\nmore\n```\n",
    "tables": "\n| 7 |\n",
    "figures": "\n7 %\n",
    "names": "\n`more`\n",
}


@pytest.mark.parametrize("asked", CHANGES)
def test_what_only_one_of_them_has_is_noticed(asked):
    original = read("README.md")

    assert ASKED[asked](original + CHANGES[asked]) != ASKED[asked](original)


def test_another_file_or_option_in_the_comment_that_starts_a_program_is_noticed():
    original = read("README.md")

    for wrong in ("torchrun --nproc-per-node=4 ten.py", "torchrun --nproc-per-node=2 eleven.py"):
        changed = original.replace("torchrun --nproc-per-node=2 ten.py", wrong)
        assert commands(changed) != commands(original)


@pytest.mark.parametrize(
    ("good", "wrong"),
    [
        ("(docs/flash-attn.zh-CN.md)", "(docs/moving.zh-CN.md)"),
        ("(docs/flash-attn.zh-CN.md)", "(docs/flash-attn.zh-TW.md)"),
        ("(docs/api.md)", "(docs/api.zh-CN.md)"),  # which nobody has written
        ("(docs/flash-attn.zh-CN.md)", "(docs/flash-attn.zh-CN.md#没有)"),
        ("(docs/flash-attn.zh-CN.md)", "(docs/flash-attn.zh-CN.md#相同之处)"),
    ],
)
def test_a_link_that_leads_elsewhere_is_noticed(good, wrong):
    text = read("README.zh-CN.md")
    assert good in text

    assert links(text.replace(good, wrong), "README.zh-CN.md") != links(
        read("README.md"), "README.md"
    )


def test_a_heading_is_the_same_place_in_both_languages_and_another_one_is_not():
    there = place("flash-attn.zh-CN.md#相同之处", "docs/moving.zh-CN.md")

    assert there == place("#what-is-the-same", "docs/flash-attn.md")
    assert there != place("#what-differs", "docs/flash-attn.md")


def test_a_link_to_the_other_language_is_noticed_where_there_is_a_page_in_this_one():
    text = "[](README.md) [](docs/api.md) [](docs/moving.zh-CN.md) [](docs/flash-attn.md#x)"

    assert left(text, "README.zh-CN.md") == ["docs/flash-attn.md"]


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_a_translation_ends_inside_of_chinese_words(page):
    assert TORN.findall("词\n  *语*") == ["词\n  *语"]
    assert TORN.findall(without_blocks(read(page))) == []
