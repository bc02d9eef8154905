"""What records and messages are made of: values that cannot change, and words from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from ring_attn_bench.records import files


class Frozen(BaseModel):
    """A value that cannot change and has no unknown fields.

    As JSON, numbers that are not finite are words: `null` could not be read back as a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


def _in_unicode(value: object) -> object:
    return files.in_unicode(value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_in_unicode)]
"""Words from outside, a folder's name or an exception's, whatever bytes they have."""
