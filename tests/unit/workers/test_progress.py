"""Words of others in lines of progress: one line each, and nothing that a terminal obeys."""

import io

from rich.console import Console
from rich.text import Text

from ring_attn_bench.workers.progress import ProgressLines

HOSTILE = "\x1b[31mred\x1b[2J\nand more"


def printed(tell, **terminal):
    text = io.StringIO()
    tell(ProgressLines(Console(file=text, width=200, **terminal)))
    return text.getvalue()


def test_a_reason_paints_nothing_and_is_in_the_line_of_its_result():
    said = printed(lambda lines: lines.result(Text(f"  1/2  error  {HOSTILE}")))

    assert said == "  1/2  error  \\x1b[31mred\\x1b[2J and more\n"


def test_a_status_keeps_its_colour_between_words_of_others():
    line = Text(f"{HOSTILE} ").append("ok", style="green").append(f" {HOSTILE}")

    said = printed(lambda lines: lines.result(line), force_terminal=True, color_system="standard")

    assert "\x1b[32mok\x1b[0m" in said
    assert said.count("\x1b") == 2


def test_a_sentence_of_its_own_paints_nothing_and_keeps_its_lines():
    said = printed(lambda lines: lines.note(HOSTILE))

    assert said == "\\x1b[31mred\\x1b[2J\nand more\n"
