"""How what is optional is installed: the same words wherever somebody lacks it."""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "triton": "pip install 'triton>=3.6'",
    "flash_attn": "pip install --no-build-isolation 'flash-attn>=2.8'",
    "flash_attn_4": "pip install 'flash-attn-4[cu13]>=4.0.0b36'",
    # of 4.8 alone, which its kernels were compiled with: 4.9 has another compiler by default
    "nvidia_cutlass_dsl": "pip install 'nvidia-cutlass-dsl[cu13]>=4.8.1,<4.9'",
    "flash_attn_3": "git clone --recursive https://github.com/Dao-AILab/flash-attention && "
    "pip install --no-build-isolation ./flash-attention/hopper",
    # without its dependencies, because it pins numpy to 1.26.4
    "flag_gems": "pip install --no-deps flag-gems==5.0.2 sqlalchemy==2.0.48 pyyaml packaging",
    "ring_flash_attn": "pip install 'ring-flash-attn>=0.1.8'",
    "yunchang": "pip install 'yunchang>=0.6.4'",
    "flashinfer_python": "pip install 'flashinfer-python>=0.2.7'",
    "nvidia_ml_py": "pip install 'nvidia-ml-py>=12.535'",
}
"""By package, as `ring-attn-bench env` names it, a command that can be typed as it is.

The versions are those of pyproject.toml; none asks an index for this project. What a backend says
that it lacks is one of them too.
"""
WITHOUT_GPU = frozenset({"triton"})
"""Those of them that are of use where there is no CUDA device."""
