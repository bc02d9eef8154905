"""Verbs that were options of `check`: the old forms go on working, and say the new name."""

from __future__ import annotations

import typer

from ring_attn_bench.errors import InvalidArgument

VERBS = ("probe", "quick")
"""In this order: `check --probe --quick` was a probe, which has a --quick."""
ONLY = {
    "check": ("--suite", "--ranks", "--case", "--contestant", "--filter", "--set"),
    "probe": ("--feature", "--jobs", "--seconds"),
}
"""By verb, options that the others refuse."""


def today(words: list[str]) -> list[str]:
    """The same command in verbs of today.

    Raises InvalidArgument where options are another verb's.
    """
    if words[:1] != ["check"]:
        return words
    verb = next((verb for verb in VERBS if f"--{verb}" in words), "check")
    _refuse_others(verb, {word.partition("=")[0] for word in words})
    if verb == "check":
        return words
    old = f"--{verb}"
    typer.echo(f"`ring-attn-bench check {old}` is `ring-attn-bench {verb}` now.", err=True)
    return [verb, *(word for word in words[1:] if word != old)]


def _refuse_others(verb: str, given: set[str]) -> None:
    for other, options in ONLY.items():
        others = [option for option in options if option in given]
        if others and other != verb:
            raise InvalidArgument(f"{others[0]} is for `{other}`, and `{verb}` has none.")
