"""The backends that come with ring_attn_bench: the table below, and one module for each line."""

BACKENDS = {
    "flash_attn_4": "ring_attn_backends.flash_attn_4:FlashAttn4Backend",
    "cudnn": "ring_attn_backends.cudnn:CudnnBackend",
    "triton": "ring_attn_backends.triton:TritonBackend",
    "aten": "ring_attn_backends.aten:AtenBackend",
    "reference": "ring_attn_backends.reference:ReferenceBackend",
}
"""Name to "module:Class", fastest first: `auto` takes the first that can.

A module imports its kernel's package only when a backend is made.
"""
