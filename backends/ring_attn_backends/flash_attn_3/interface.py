"""What the installed FlashAttention-3 takes, and what its build was made without."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def parameters(function: Any) -> dict[str, bool]:  # noqa: ANN401 - untyped
    """The names that a function of the package takes, and whether each must be given.

    Since 2025-09 the functions are torch's custom operators, whose own signature says nothing.
    """
    plain = getattr(function, "_init_fn", function)
    parameters = inspect.signature(plain).parameters.values()
    return {p.name: p.default is inspect.Parameter.empty for p in parameters}


def complete(names: Mapping[str, bool], mine: dict[str, Any]) -> dict[str, Any]:
    """With None for what has no default and is not wanted: pages, rotary, scales of fp8."""
    return {name: None for name, needed in names.items() if needed} | mine


def left_out() -> frozenset[str]:
    """What the build says that it was made without, as LOCAL or HDIM96; nothing if it is old."""
    try:
        flags: Mapping[str, bool] = import_module("flash_attn_config").CONFIG["build_flags"]
    except ImportError:
        return frozenset()
    prefix = "FLASHATTENTION_DISABLE_"
    return frozenset(name.removeprefix(prefix) for name, off in flags.items() if off)
