"""Every shipped configuration of the Triton kernels, compiled without a GPU: registers, spills, wgmma."""

import math
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from ring_attn_backends.triton import launch  # noqa: E402 - only where Triton is
from ring_attn_bench.block import Block  # noqa: E402
from ring_attn_bench.positions import Band, Span  # noqa: E402
from ring_attn_bench.problem import Score  # noqa: E402
from ring_attn_bench.ring import merge_triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

if triton.knobs.runtime.interpret:
    pytest.skip("nothing compiles where Triton interprets", allow_module_level=True)

ARCHITECTURES = (80, 90, 100)
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""What one program may have of it, by compute capability (CUDA C programming guide, table 27)."""

TORCH_TO_TRITON = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
