#!/usr/bin/env bash
# Style alone: ruff's rules and its formatting. PYTHON=.venv/bin/python, which run_tests.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-.venv/bin/python}
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
