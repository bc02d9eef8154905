"""What transformers says of a mask, as the numbers that packed attention needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional

from ring_attn_bench.errors import InvalidArgument

KNOWN = {
    "causal_mask_function",
    "bidirectional_mask_function",
    "and_masks.<locals>.and_mask",
    "sliding_window_overlay.<locals>.inner_mask",
    "padding_mask_function.<locals>.inner_mask",
    "remap_positions_for_packed_sequence.<locals>.inner_mask",
    "packed_sequence_mask_function.<locals>.inner_mask",
}
"""Of transformers' mask functions, those that causality, a window and documents are made of."""
_ALONE = {"causal_mask_function", "bidirectional_mask_function"}
_PACKED = "packed_sequence_mask_function.<locals>.inner_mask"
_ACROSS = "bidirectional_mask_function"


def documents(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **others: Any,  # noqa: ANN401 - transformers passes what its own masks need
) -> Tensor | None:
    """int32 (batch_size, keys): 0 where no token is, else the number of its document; None is one
    document of each entry, without padding.

    A mask function of transformers'. Of a cache with room that is not filled, only the filled part:
    its last keys are the queries', which are none of the keys where a decoder looks at an encoder.
    Raises InvalidArgument for a mask that is more than causality, a window and documents.
    """
    packed = documents_in(mask_function)
    if packed is not None:
        return packed.expand(batch_size, -1).to(torch.int32) + 1
    is_across = any(_name(part) == _ACROSS for part in _parts(mask_function))
    filled = kv_length if is_across else int(q_offset) + q_length - kv_offset
    if attention_mask is None:
        if filled >= kv_length:
            return None
        device = others.get("device")
        return torch.ones(batch_size, filled, dtype=torch.int32, device=device)
    there = attention_mask[:, kv_offset : kv_offset + filled]
    # what a mask does not reach is no token, as in transformers' own masks
    there = functional.pad(there, (0, filled - there.shape[1]))
    if there.shape[1] == kv_length and bool(there.all()):
        return None
    return there.to(torch.int32)


def documents_in(mask_function: Callable[..., Any] | None) -> Tensor | None:
    """The documents' numbers (1 or batch, tokens) in a mask function, if it knows of some.

    Raises InvalidArgument for one that is made of other parts than `KNOWN`, and inside
    torch.compile, which cannot look into it, for one that is made of any.
    """
    found = None
    for function in _parts(mask_function):
        name = _name(function)
        if name not in KNOWN:
            raise InvalidArgument(
                f"the model's mask has a part {name}, and this attention knows causality, a "
                "sliding window, padding and packed sequences; take attn_implementation='sdpa', "
                "'eager' or 'flex_attention' for this model."
            )
        if name == _PACKED:
            (found,) = [x for x in _captured(function) if isinstance(x, Tensor)]
        if is_compiling() and name not in _ALONE:
            raise InvalidArgument(
                f"the model's mask is {name}, whose parts cannot be told inside torch.compile "
                "(a window's, or packed sequences', which are looked for without a cache); pass "
                "use_cache=True if it has no window, or compile the model's layers one by one."
            )
    return found


def _name(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)  # of which torch.compile knows the name
    return type(function).__name__ if code is None else str(code.co_qualname)


def _parts(function: Callable[..., Any] | None) -> Iterator[Callable[..., Any]]:
    if function is None:
        return
    yield function
    for inside in _captured(function):
        for part in inside if isinstance(inside, tuple) else (inside,):
            if callable(part) and not isinstance(part, Tensor):
                yield from _parts(part)


def _captured(function: Callable[..., Any]) -> list[object]:
    return [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]


def of_positions(position_ids: Tensor, batch: int) -> Tensor | None:
    """The same as `documents` by positions (1 or batch, tokens): a document begins wherever one is
    not the next of that before; None where none is. Waits for the GPU."""
    begins = position_ids.diff(dim=1) != 1
    if not bool(begins.any()):
        return None
    numbers = functional.pad(begins.cumsum(1, dtype=torch.int32), (1, 0))
    return (numbers + 1).expand(batch, -1)
