"""Numbers as people read and write them."""

from __future__ import annotations

import re
from math import isfinite

from ring_attn_bench.errors import InvalidArgument, shown

_KIBI = 1024
SUFFIXES = {"": 1, "k": _KIBI, "m": _KIBI**2}


def digits(value: float | None, significant: int = 3) -> str:
    """Rounded to that many significant digits, never as a power of ten; empty for None."""
    if value is None:
        return ""
    if not value or not isfinite(value):
        return f"{value:g}"
    power_of_ten = int(f"{value:.{significant - 1}e}".partition("e")[2])
    decimals = significant - 1 - power_of_ten
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def power(value: float | None) -> str:
    """The value as 1.2e-03; empty for None."""
    return "" if value is None else f"{value:.1e}"


def times(value: float | None) -> str:
    """A ratio, as 1.02x; empty for None."""
    if value is None:
        return ""
    return f"{value:.2f}x" if value < 10 else f"{digits(value)}x"


def percent(value: float | None) -> str:
    """Without its sign, which the column's head has; empty for None."""
    return "" if value is None else f"{value:.1f}"


def tokens(count: int) -> str:
    """8192 as 8K, 1048576 as 1M, 1000 as 1,000."""
    if count % _KIBI**2 == 0:
        return f"{count // _KIBI**2}M"
    return f"{count // _KIBI}K" if count % _KIBI == 0 else f"{count:,}"


def count_of(text: str) -> int | None:
    """8k or 8K is 8192, 1m 1048576, 1000 itself; None for any other text, and for 13 digits."""
    written = re.fullmatch(r"([1-9]\d{0,11})\s*([km]?)", text.strip().lower(), re.ASCII)
    return None if written is None else int(written[1]) * SUFFIXES[written[2]]


def tokens_of(name: str, text: str, most: int) -> int:
    """The same for the option of that name; raises InvalidArgument."""
    count = count_of(text)
    if count is None or count > most:
        raise InvalidArgument(
            f"{name} is {shown(text)}; it must be a number of tokens, as 1000, 8k or 1M, and at "
            f"most {most}."
        )
    return count


def plural(count: int, noun: str) -> str:
    """1 rank, 2 ranks."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
