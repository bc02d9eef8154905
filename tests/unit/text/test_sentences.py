"""A table with a column of sentences keeps to the terminal and breaks no word."""

import pytest

from ring_attn_bench.text.sentences import INDENT, commands, sentences

SENTENCE = "what was said is longer than a line and has well-known words in it"


@pytest.mark.parametrize("column", [1, -1])
@pytest.mark.parametrize("width", [60, 80])
def test_it_is_no_wider_than_the_terminal_wherever_the_sentences_are(column, width):
    row = ["name", "yes", "no"]
    row[column] = SENTENCE

    shown = sentences([row], width, ("first", "second", "third"), column=column)

    assert max(map(len, shown.splitlines())) <= width
    assert set(SENTENCE.split()) <= set(shown.split())


@pytest.mark.parametrize("ruled", [True, False])
def test_sentences_without_room_beside_the_names_stand_below_their_row(ruled):
    rows = [("n" * 50, "yes", SENTENCE), ("m", "no", "")]
    shown = sentences(rows, 60, ("name", "here", "why"), ruled=ruled).splitlines()

    at = next(i for i, line in enumerate(shown) if line.startswith("n" * 50))
    assert max(map(len, shown)) <= 60
    assert shown[at + 1].startswith(INDENT)
    assert " ".join(" ".join(shown[at + 1 : at + 3]).split()) == SENTENCE
    assert shown[at + 3].split() == ["m", "no"]


def test_sentences_by_themselves_keep_their_words_whole():
    assert SENTENCE.split() == sentences([(SENTENCE,)], 8).split()[1:-1]


def test_a_word_that_would_be_wider_than_its_column_sends_them_there_too():
    command = "https://example.org/" + "x" * 30
    shown = sentences([("n" * 20, f"try: {command}")], 60).splitlines()

    assert max(map(len, shown)) <= 60
    assert f"{INDENT}try: {command}" in shown


def test_a_command_stays_in_one_line():
    assert SENTENCE in commands([("package", SENTENCE)], ["what", "command"])
