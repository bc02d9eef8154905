"""Two ranks of one GPU whose ring is the first that asks anything of it: run by torchrun."""

import torch
import torch.distributed as dist

from ring_attn_bench import RingContext, RingOptions, zigzag_ring_flash_attn_func


def main() -> None:
    dist.init_process_group("gloo")
    with RingContext(options=RingOptions("copy_engine")) as context:
        q, k, v = (torch.randn(1, 512, 4, 64, device="cuda", dtype=torch.bfloat16) for _ in "qkv")
        out = zigzag_ring_flash_attn_func(q, k, v, causal=True, context=context, backend="triton")
        assert out.isfinite().all()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
