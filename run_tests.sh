#!/usr/bin/env bash
# Sets up and runs the tests; needs no GPU.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
install=yes
# Many tests start several ranks at once: more threads for each would fight for the same cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

usage() {
    cat <<'EOF'
Usage: [PYTHON=python3] ./run_tests.sh [--full] [--no-install] [options of pytest]

Installs the project into .venv (once), then runs the tests: and then, in a
process of its own, those that run kernels in Triton's interpreter.

  --full        also the exhaustive grids
  --no-install  run in PYTHON as it is, with nothing installed (a machine without a network)
  -h, --help    this text

Other arguments go to pytest, in both runs: ./run_tests.sh -x -k zigzag
With the path of a test there is one run:   ./run_tests.sh tests/unit/test_plan.py
EOF
}

options=()
paths=()
for argument in "$@"; do
    case $argument in
        --no-install) install=no ;;
        -h | --help) usage && exit 0 ;;
        tests | tests/* | ./tests/*) paths+=("${argument#./}") ;;
        *) options+=("$argument") ;; # --full among them, see conftest.py
    esac
done

source "$checkout/scripts/install.sh"
cd "$checkout"
"$PYTHON" -c 'import pytest, pytest_timeout, hypothesis' ||
    lacking "$PYTHON lacks what the tests need: pip install -e '.[dev]'"

run_pytest() {
    local code=0
    # the hypothesis profile `ci`: the same examples every time, and no limit on the time of one
    "$PYTHON" -m pytest --hypothesis-profile=ci "$@" "${options[@]}" || code=$?
    if [[ $code == 5 && ${#options[@]} != 0 ]]; then return; fi # the options chose no test here
    return "$code"
}

case "${paths[*]}" in
    "")
        run_pytest --ignore=tests/triton_interpreted
        if [[ -d tests/triton_interpreted ]]; then
            TRITON_INTERPRET=1 run_pytest tests/triton_interpreted
        else
            echo "No tests/triton_interpreted: nothing was run in Triton's interpreter."
        fi
        ;;
    tests/triton_interpreted*) TRITON_INTERPRET=1 run_pytest "${paths[@]}" ;;
    *) run_pytest "${paths[@]}" ;;
esac
