"""flash-attn 2.8's functions by our kernels: swap one import, and nothing has to be built.

Names are loaded when they are first used, as in the package above.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ring_attn_bench.attention import (
        flash_attn_func,
        flash_attn_varlen_func,
    )
    from ring_attn_bench.cached_attention import flash_attn_with_kvcache
    from ring_attn_bench.flash_attn.packed import (
        flash_attn_kvpacked_func,
        flash_attn_qkvpacked_func,
        flash_attn_varlen_kvpacked_func,
        flash_attn_varlen_qkvpacked_func,
    )
    from ring_attn_bench.flash_attn.passes import (
        _flash_attn_backward as _flash_attn_backward,
    )
    from ring_attn_bench.flash_attn.passes import (
        _flash_attn_forward as _flash_attn_forward,
    )
    from ring_attn_bench.flash_attn.passes import (
        _flash_attn_varlen_backward as _flash_attn_varlen_backward,
    )
    from ring_attn_bench.flash_attn.passes import (
        _flash_attn_varlen_forward as _flash_attn_varlen_forward,
    )

__version__ = "2.8.3"
"""Of flash-attn, whose names, order and defaults these are; who runs in its place asks for it."""

_MODULES = {
    "flash_attn_func": "ring_attn_bench.attention",
    "flash_attn_varlen_func": "ring_attn_bench.attention",
    "flash_attn_with_kvcache": "ring_attn_bench.cached_attention",
    "flash_attn_kvpacked_func": "ring_attn_bench.flash_attn.packed",
    "flash_attn_qkvpacked_func": "ring_attn_bench.flash_attn.packed",
    "flash_attn_varlen_kvpacked_func": "ring_attn_bench.flash_attn.packed",
    "flash_attn_varlen_qkvpacked_func": "ring_attn_bench.flash_attn.packed",
    "_flash_attn_backward": "ring_attn_bench.flash_attn.passes",
    "_flash_attn_forward": "ring_attn_bench.flash_attn.passes",
    "_flash_attn_varlen_backward": "ring_attn_bench.flash_attn.passes",
    "_flash_attn_varlen_forward": "ring_attn_bench.flash_attn.passes",
}

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_MODULES, "__version__"])
