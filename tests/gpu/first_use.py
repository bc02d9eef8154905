"""Two ranks of one GPU whose ring is the first that asks anything of it: run by torchrun."""

import torch.distributed as dist

from ring_attn_bench import RingContext, RingOptions


def main() -> None:
    dist.init_process_group("gloo")
    RingContext(options=RingOptions("copy_engine")).close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
