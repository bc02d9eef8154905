#!/usr/bin/env bash
# Types alone: mypy --strict. PYTHON=.venv/bin/python, which run_tests.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
"${PYTHON:-.venv/bin/python}" -m mypy
