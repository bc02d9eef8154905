"""The backends and peers that come with ring_attn_bench: two tables, and a class for each line."""

BACKENDS = {
    "flash_attn_4": "ring_attn_backends.flash_attn_4:FlashAttn4Backend",
    "flash_attn_3": "ring_attn_backends.flash_attn_3:FlashAttn3Backend",
    "cudnn": "ring_attn_backends.cudnn:CudnnBackend",
    "triton": "ring_attn_backends.triton:TritonBackend",
    # Behind triton, which serves all that it does: for who names it, and not for `auto`, until runs
    # of whole suites show where it is faster than those above (cute/README.md has single calls).
    "cute": "ring_attn_backends.cute:CuteBackend",
    "flash_attn_2": "ring_attn_backends.flash_attn_2:FlashAttn2Backend",
    "aten": "ring_attn_backends.aten:AtenBackend",
    "flex": "ring_attn_backends.flex:FlexBackend",
    "flag_gems": "ring_attn_backends.flag_gems:FlagGemsBackend",
    "reference": "ring_attn_backends.reference:ReferenceBackend",
}
"""Name to "module:Class", fastest first but for `cute`: `auto` takes the first that can.

A module imports its kernel's package only when a backend is made.
"""

FIRST_OVER_A_CACHE = ("triton",)
"""Whom `auto` asks over a cache before all others: it makes a step again without looking at it, and
on an H200 none was ahead of it (results/2026-12-01_1xH200_decode_backends, which has no
flash_attn_3)."""

PEERS = {
    "ring_flash_attn[flash_attn_2]": "ring_attn_backends.peers.ring_flash_attn:WithFlashAttn2",
    "ring_flash_attn[flash_attn_4]": "ring_attn_backends.peers.ring_flash_attn:WithFlashAttn4",
    "ring_flash_attn[triton]": "ring_attn_backends.peers.ring_flash_attn:WithTriton",
    "torch_cp[flash,alltoall]": "ring_attn_backends.peers.torch_cp:FlashAllToAll",
    "torch_cp[flash,allgather]": "ring_attn_backends.peers.torch_cp:FlashAllGather",
    "torch_cp[cudnn,alltoall]": "ring_attn_backends.peers.torch_cp:CudnnAllToAll",
    "torch_cp[cudnn,allgather]": "ring_attn_backends.peers.torch_cp:CudnnAllGather",
    "torch_cp[math]": "ring_attn_backends.peers.torch_cp:Math",
    "yunchang[ulysses,flash_attn_2]": "ring_attn_backends.peers.yunchang:WithFlashAttn2",
    "yunchang[ulysses,flash_attn_4]": "ring_attn_backends.peers.yunchang:WithFlashAttn4",
    "yunchang[ulysses,triton]": "ring_attn_backends.peers.yunchang:WithTriton",
    "flash_attn[flash_attn_2]": "ring_attn_backends.peers.over_cache:FlashAttn",
    "flashinfer[pages]": "ring_attn_backends.peers.over_cache:FlashInfer",
}
"""Other people's whole rings, and attention over a cache: package[kernel inside, variant] to
"module:Class".

A module imports the peer's package, and the kernel's, only when a peer is made.
"""
