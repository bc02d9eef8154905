"""What a terminal obeys is shown, and not obeyed."""

import pytest

from ring_attn_bench.text.controls import spelled


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mX\x1b]0;pwn\x07", r"a\x1b[31mX\x1b]0;pwn\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("slow\rfast\x08", r"slow\rfast\x08"),
        ("\u202eabc", r"\u202eabc"),
    ],
)
def test_characters_that_a_terminal_obeys_are_spelled(text, shown):
    assert spelled(text) == shown


def test_lines_tabs_and_letters_stay():
    text = "ä\t日本 ±\n😀 \\x1b"
    assert spelled(text) == text
