"""A table with a column of sentences keeps to the terminal and breaks no word."""

import pytest

from ring_attn_bench.text.sentences import NARROWEST, commands, sentences

SENTENCE = "what was said is longer than a line and has well-known words in it"


@pytest.mark.parametrize("column", [1, -1])
@pytest.mark.parametrize("width", [60, 80])
def test_it_is_no_wider_than_the_terminal_wherever_the_sentences_are(column, width):
    row = ["name", "yes", "no"]
    row[column] = SENTENCE

    shown = sentences([row], width, ("first", "second", "third"), column=column)

    assert max(map(len, shown.splitlines())) <= width
    assert set(SENTENCE.split()) <= set(shown.split())


def test_sentences_have_some_room_beside_any_names():
    shown = sentences([("n" * 80, SENTENCE)], 60, ruled=False)

    assert min(len(line[82:]) for line in shown.splitlines()[:-1]) > NARROWEST / 2


def test_a_command_stays_in_one_line():
    assert SENTENCE in commands([("package", SENTENCE)], ["what", "command"])
