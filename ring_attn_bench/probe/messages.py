"""What the parent asks of a probing process, as JSON, and what it hears."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.values import Frozen, Text


class Load(Frozen):
    """Make the backend. environment: the variables that the process was started with for it."""

    do: Literal["load"] = "load"
    backend: str
    device: str
    environment: dict[str, str]


class Loaded(Frozen):
    """The backend's version; or why there is none; or the environment that it needs instead."""

    version: Text = ""
    unavailable: Text | None = None
    needs: dict[str, str] | None = None


class Ask(Frozen):
    """Ask the backend about a feature."""

    do: Literal["ask"] = "ask"
    feature: str
    direction: Direction
    quick: bool


Command = Annotated[Load | Ask, Field(discriminator="do")]
COMMANDS: TypeAdapter[Load | Ask] = TypeAdapter(Command)
