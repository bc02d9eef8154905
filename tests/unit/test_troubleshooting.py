"""docs/troubleshooting.md quotes what the program says, and names options that there are."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

import ring_attn_bench
from ring_attn_bench import errors
from ring_attn_bench.ring.options import RingOptions
from tests.source_tree import modules, syntax

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SYMPTOMS = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]
THEIRS = {"no kernel image is available"}
"""What CUDA says."""
QUOTED = {
    part.strip()
    for cell in SYMPTOMS
    for quoted in re.findall(r"\*([^*]+)\*", cell)
    for part in quoted.split("...")
    if part.strip()
} - THEIRS


@pytest.fixture(scope="module")
def said():
    """All texts of the program, each as one line."""
    return [
        " ".join(node.value.split())
        for module in modules()
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("quoted", sorted(QUOTED))
def test_what_is_quoted_is_said(quoted, said):
    assert any(quoted in text for text in said), quoted


def test_errors_and_options_are_there():
    named = set(re.findall(r"`(\w+)`(?::| of| with)", " ".join(SYMPTOMS)))
    assert {x for x in named if x[0].isupper()} <= set(vars(errors))
    asked = {x for call in re.findall(r"RingOptions\(([^)]+)\)", PAGE) for x in
             re.findall(r"(\w+)=", call)}  # fmt: skip
    assert asked <= {field.name for field in fields(RingOptions)}
    for name in ("documents", "flash_attn_varlen_func", "position_ids", "document_position_ids"):
        assert f"`{name}" in PAGE
        assert hasattr(ring_attn_bench, name)
