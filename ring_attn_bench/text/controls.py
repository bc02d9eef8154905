"""Characters that a terminal obeys, in words of others: names, reasons, what a process wrote."""

from __future__ import annotations

import re

# C0 without tab and line feed, DEL, C1; and what turns the direction of a line, or hides in it
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def spelled(text: str) -> str:
    r"""The text with those spelled as Python does, \x1b, and all else as it is."""
    return _OBEYED.sub(lambda control: control[0].encode("unicode_escape").decode(), text)
