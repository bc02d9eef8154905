#!/usr/bin/env bash
# On a machine with a GPU: the adapters of flash-attn 2, 3 and 4, and of torch's own copies.
#   [PYTHON=python3] scripts/check_flash_attn.sh [options of pytest]
# What is not installed is skipped, with the command that installs it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
backends="flash_attn_2 or flash_attn_3 or flash_attn_4 or aten or cudnn"
"${PYTHON:-python3}" -m pytest -p no:cacheprovider tests/gpu/test_flash_attn.py tests/conformance \
    -k "test_flash_attn or $backends" "$@"
