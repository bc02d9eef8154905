"""One ring that any attention kernel plugs into, and the harness that settles which to use.

Names are loaded when they are first used: importing the package imports neither torch nor a kernel.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ring_attn_bench import _moved

if TYPE_CHECKING:
    from ring_attn_bench.attention import (
        flash_attn_func,
        flash_attn_varlen_func,
    )
    from ring_attn_bench.cached_attention import flash_attn_with_kvcache, ring_attn_with_kvcache
    from ring_attn_bench.document_sharding import (
        document_position_ids,
        documents,
        refill_documents,
        shard_documents,
    )
    from ring_attn_bench.errors import (
        BackendUnavailable,
        InvalidArgument,
        NoProcessGroup,
        RingAttnBenchError,
        RingBroken,
        TransportUnavailable,
        UnknownName,
        Unsupported,
    )
    from ring_attn_bench.modules import RingAttention
    from ring_attn_bench.ring.context import RingContext
    from ring_attn_bench.ring.options import RingOptions
    from ring_attn_bench.ring_attention import (
        ring_attn_func,
        ring_flash_attn_func,
        ring_flash_attn_kvpacked_func,
        ring_flash_attn_qkvpacked_func,
        stripe_flash_attn_func,
        stripe_flash_attn_kvpacked_func,
        stripe_flash_attn_qkvpacked_func,
        triton_ring_flash_attn_func,
        triton_ring_flash_attn_kvpacked_func,
        triton_ring_flash_attn_qkvpacked_func,
        zigzag_ring_flash_attn_func,
        zigzag_ring_flash_attn_kvpacked_func,
        zigzag_ring_flash_attn_qkvpacked_func,
    )
    from ring_attn_bench.ring_documents import ring_attn_varlen_func
    from ring_attn_bench.ring_varlen import (
        llama3_flash_attn_prepare_cu_seqlens,
        llama3_flash_attn_varlen_func,
        llama3_flash_attn_varlen_kvpacked_func,
        llama3_flash_attn_varlen_qkvpacked_func,
        ring_flash_attn_varlen_func,
        ring_flash_attn_varlen_kvpacked_func,
        ring_flash_attn_varlen_qkvpacked_func,
        zigzag_ring_flash_attn_varlen_func,
        zigzag_ring_flash_attn_varlen_kvpacked_func,
        zigzag_ring_flash_attn_varlen_qkvpacked_func,
    )
    from ring_attn_bench.sharding import (
        join_shards,
        position_ids,
        shard,
        unshard,
    )

__version__ = "0.1.0"

_moved.install()

_MODULES = {
    "BackendUnavailable": "ring_attn_bench.errors",
    "InvalidArgument": "ring_attn_bench.errors",
    "NoProcessGroup": "ring_attn_bench.errors",
    "RingAttnBenchError": "ring_attn_bench.errors",
    "RingBroken": "ring_attn_bench.errors",
    "TransportUnavailable": "ring_attn_bench.errors",
    "UnknownName": "ring_attn_bench.errors",
    "Unsupported": "ring_attn_bench.errors",
    "flash_attn_func": "ring_attn_bench.attention",
    "flash_attn_varlen_func": "ring_attn_bench.attention",
    "flash_attn_with_kvcache": "ring_attn_bench.cached_attention",
    "ring_attn_with_kvcache": "ring_attn_bench.cached_attention",
    "RingAttention": "ring_attn_bench.modules",
    "RingContext": "ring_attn_bench.ring.context",
    "RingOptions": "ring_attn_bench.ring.options",
    "ring_attn_func": "ring_attn_bench.ring_attention",
    "ring_flash_attn_func": "ring_attn_bench.ring_attention",
    "ring_flash_attn_kvpacked_func": "ring_attn_bench.ring_attention",
    "ring_flash_attn_qkvpacked_func": "ring_attn_bench.ring_attention",
    "stripe_flash_attn_func": "ring_attn_bench.ring_attention",
    "stripe_flash_attn_kvpacked_func": "ring_attn_bench.ring_attention",
    "stripe_flash_attn_qkvpacked_func": "ring_attn_bench.ring_attention",
    "triton_ring_flash_attn_func": "ring_attn_bench.ring_attention",
    "triton_ring_flash_attn_kvpacked_func": "ring_attn_bench.ring_attention",
    "triton_ring_flash_attn_qkvpacked_func": "ring_attn_bench.ring_attention",
    "zigzag_ring_flash_attn_func": "ring_attn_bench.ring_attention",
    "zigzag_ring_flash_attn_kvpacked_func": "ring_attn_bench.ring_attention",
    "zigzag_ring_flash_attn_qkvpacked_func": "ring_attn_bench.ring_attention",
    "document_position_ids": "ring_attn_bench.document_sharding",
    "documents": "ring_attn_bench.document_sharding",
    "refill_documents": "ring_attn_bench.document_sharding",
    "shard_documents": "ring_attn_bench.document_sharding",
    "ring_attn_varlen_func": "ring_attn_bench.ring_documents",
    "ring_flash_attn_varlen_func": "ring_attn_bench.ring_varlen",
    "ring_flash_attn_varlen_kvpacked_func": "ring_attn_bench.ring_varlen",
    "ring_flash_attn_varlen_qkvpacked_func": "ring_attn_bench.ring_varlen",
    "zigzag_ring_flash_attn_varlen_func": "ring_attn_bench.ring_varlen",
    "zigzag_ring_flash_attn_varlen_kvpacked_func": "ring_attn_bench.ring_varlen",
    "zigzag_ring_flash_attn_varlen_qkvpacked_func": "ring_attn_bench.ring_varlen",
    "llama3_flash_attn_varlen_func": "ring_attn_bench.ring_varlen",
    "llama3_flash_attn_varlen_kvpacked_func": "ring_attn_bench.ring_varlen",
    "llama3_flash_attn_varlen_qkvpacked_func": "ring_attn_bench.ring_varlen",
    "llama3_flash_attn_prepare_cu_seqlens": "ring_attn_bench.ring_varlen",
    "join_shards": "ring_attn_bench.sharding",
    "position_ids": "ring_attn_bench.sharding",
    "shard": "ring_attn_bench.sharding",
    "unshard": "ring_attn_bench.sharding",
}

__all__ = [
    "BackendUnavailable",
    "InvalidArgument",
    "NoProcessGroup",
    "RingAttention",
    "RingAttnBenchError",
    "RingBroken",
    "RingContext",
    "RingOptions",
    "TransportUnavailable",
    "UnknownName",
    "Unsupported",
    "document_position_ids",
    "documents",
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "join_shards",
    "llama3_flash_attn_prepare_cu_seqlens",
    "llama3_flash_attn_varlen_func",
    "llama3_flash_attn_varlen_kvpacked_func",
    "llama3_flash_attn_varlen_qkvpacked_func",
    "position_ids",
    "refill_documents",
    "ring_attn_func",
    "ring_attn_varlen_func",
    "ring_attn_with_kvcache",
    "ring_flash_attn_func",
    "ring_flash_attn_kvpacked_func",
    "ring_flash_attn_qkvpacked_func",
    "ring_flash_attn_varlen_func",
    "ring_flash_attn_varlen_kvpacked_func",
    "ring_flash_attn_varlen_qkvpacked_func",
    "shard",
    "shard_documents",
    "stripe_flash_attn_func",
    "stripe_flash_attn_kvpacked_func",
    "stripe_flash_attn_qkvpacked_func",
    "triton_ring_flash_attn_func",
    "triton_ring_flash_attn_kvpacked_func",
    "triton_ring_flash_attn_qkvpacked_func",
    "unshard",
    "zigzag_ring_flash_attn_func",
    "zigzag_ring_flash_attn_kvpacked_func",
    "zigzag_ring_flash_attn_qkvpacked_func",
    "zigzag_ring_flash_attn_varlen_func",
    "zigzag_ring_flash_attn_varlen_kvpacked_func",
    "zigzag_ring_flash_attn_varlen_qkvpacked_func",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
