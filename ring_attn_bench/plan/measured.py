"""Figures of machines that were measured, for `cost`: what each number is and where it is from.

One machine so far: 1, 2 and 4 x NVIDIA H200 of one host, NV18 between every pair, driver 580.159,
torch 2.11.0+cu130, Triton 3.6.0, NCCL 2.28.9, cuDNN 9.19, flash-attn 2.8.3.post2, flash-attn-4
4.0.0b36; bfloat16, 32:8 heads of 128 where nothing else is said. Cards of one kind differ by 5 to
10 %, and long passes lose as much to their own heat.

paces: fitted by eye to `one_gpu_ms` (one call of one GPU's share, lengths of 4k to 32k):
    results/2026-11-20_4xH200_hopper (commit 30fe110) for aten, cudnn, flash_attn_4;
    results/2026-11-21_4xH200_peers (8d23962) for flash_attn_2 and triton; 2026-11-27_1xH200_triton
    (51cfac7) for heads of 64; 2026-11-29_2xH200_one_launch (520dbc1) for triton's short lengths.
memory: assumed: elementwise kernels move 3.3 TB/s of the 4.26 that a copy does (measured).
gap: assumed: 4 us from kernel to kernel, and 4 for a last wave that is not full.
copy_engine: pulls of one permutation, all GPUs at once: 236 GB/s at 4 MiB, 344 at 32, 371 at 256,
    which is 12.5 us and 380 GB/s; 6.75 us for each piece with its word. 35 us of a pass are exposed
    whatever its length (20 to 50, 2 GPUs). 20 calls of SDPA under pulls take 36.1 ms, alone 32.6.
p2p: NCCL's batch_isend_irecv, the same permutation: 54 GB/s at 4 MiB, 130 at 16, 145 at 32, 155 at
    64, 161 at 128, which is 40 us and 165 GB/s (at 256 MiB it is 301: another protocol, left out).
    The same SDPA calls under it take 37.5 ms. That 20 us are exposed is assumed.
Both links were measured before this repository's first commit, by scripts that are not in it.
host: forward and backward at 1k and 2k tokens on 4 GPUs, where nothing but the host counts.
"""

from __future__ import annotations

from types import MappingProxyType

from ring_attn_bench.plan.cost import Host, KernelPaces, LinkPace, Machine, Pace

T = 1e12

H200 = Machine(
    memory=3.3e12,
    gap=8e-6,
    host=Host(begin=80e-6, forward=220e-6, backward=330e-6),
    kernels=MappingProxyType(
        {
            "aten": KernelPaces(
                accumulates=False,
                forward={128: Pace(355 * T, 400)},
                backward={128: Pace(335 * T, 650)},
            ),
            "cudnn": KernelPaces(
                accumulates=False,
                forward={64: Pace(470 * T, 400), 128: Pace(630 * T, 220)},
                backward={64: Pace(450 * T, 400), 128: Pace(545 * T, 400)},
            ),
            "flash_attn_2": KernelPaces(
                accumulates=False,
                forward={64: Pace(320 * T, 900), 128: Pace(390 * T, 400)},
                backward={64: Pace(310 * T, 500), 128: Pace(345 * T, 500)},
            ),
            "flash_attn_4": KernelPaces(
                accumulates=False,
                forward={64: Pace(555 * T, 200), 128: Pace(705 * T, 200)},
                backward={64: Pace(560 * T, 300), 128: Pace(620 * T, 400)},
            ),
            "triton": KernelPaces(
                accumulates=True,
                forward={64: Pace(460 * T, 100), 128: Pace(655 * T, 330)},
                backward={64: Pace(430 * T, 100), 128: Pace(520 * T, 350)},
            ),
        }
    ),
    ways=MappingProxyType(
        {
            "copy_engine": LinkPace(
                start=12.5e-6, piece=6.75e-6, bandwidth=380e9, steals=0.10, exposed=35e-6
            ),
            "p2p": LinkPace(start=40e-6, piece=0.0, bandwidth=165e9, steals=0.14, exposed=20e-6),
        }
    ),
)

MACHINES: dict[str, Machine] = {"NVIDIA H200": H200}
"""By the name that CUDA gives the GPU; ranks of one host."""
