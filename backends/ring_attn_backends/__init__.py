"""The backends that come with ring_attn_bench: the table below, and one module for each line."""

BACKENDS = {
    "reference": "ring_attn_backends.reference:ReferenceBackend",
    "aten": "ring_attn_backends.aten:AtenBackend",
    "cudnn": "ring_attn_backends.cudnn:CudnnBackend",
    "flash_attn_4": "ring_attn_backends.flash_attn_4:FlashAttn4Backend",
    "triton": "ring_attn_backends.triton:TritonBackend",
}
"""Name to "module:Class". A module imports its kernel's package only when a backend is made."""
