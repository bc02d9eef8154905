"""What records and messages are made of: values that cannot change, and words from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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

DType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
"""torch's name of one. Files are named by it, so nothing else may be in it."""

Documents = Annotated[str, Field(pattern=r"^[a-z][a-z0-9:]{0,63}$")]
"""A word for packed documents: histogram:0. Files are named by it too."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
"""Of who computes and how: no picture has room for a longer one."""

Environment = dict[str, Text | int | float | bool | None]
"""Facts about the machine and its versions, by name."""

MIB = 2**20
"""Bytes of a mebibyte."""
MOST = 2**31 - 1
"""The largest size of anything: what kernels count with."""
MOST_RANKS = 1024
"""Of a ring: plans and processes are made for each."""
_MOST_COUNTED = 2**63 - 1
Size = Annotated[int, Field(gt=0, le=MOST)]
Ranks = Annotated[int, Field(gt=0, le=MOST_RANKS)]
Total = Annotated[int, Field(gt=0, le=MOST * MOST_RANKS)]
"""A size that all ranks have together, in tokens."""
Side = Annotated[int, Field(ge=-MOST, le=MOST)]
"""Of a window: keys before or after a query."""
Count = Annotated[int, Field(ge=0, le=_MOST_COUNTED)]
"""Of bytes, or of whatever else there may be none of."""
Work = Annotated[int, Field(ge=0, le=10**30)]
"""Floating point operations."""
Milliseconds = Annotated[float, Field(ge=0, le=1e12)]
"""Of one call; at most 30 years."""
