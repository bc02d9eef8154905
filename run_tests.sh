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

Installs the project into .venv (once), then runs the tests: those that need no
interpreter, and in processes of their own those that run kernels in Triton's interpreter.

  --full        also the exhaustive grids
  --no-install  run in PYTHON as it is, with nothing installed (a machine without a network)
  -h, --help    this text

Other arguments go to pytest, in all runs: ./run_tests.sh -x -k zigzag
With the path of a test there is one run:   ./run_tests.sh tests/unit/test_plan.py
EOF
}

options=()
named=""    # a test's path among them
previous="" # argument
for argument in "$@"; do
    case $argument in
        --no-install) install=no && continue ;;
        -h | --help) usage && exit 0 ;;
        tests | tests/* | ./tests/*)
            [[ $previous == --ignore || $previous == --deselect ]] || named=${argument#./} ;;
    esac
    options+=("$argument") # --full among them, see conftest.py
    previous=$argument
done

source "$checkout/scripts/install.sh"
cd "$checkout"
"$PYTHON" -c 'import pytest, pytest_timeout, hypothesis' 2>/dev/null ||
    lacking "$PYTHON lacks pytest, pytest-timeout or hypothesis."

run_pytest() {
    local code=0
    # the hypothesis profile `ci`: the same examples every time, and no limit on the time of one
    "$PYTHON" -m pytest --hypothesis-profile=ci "$@" "${options[@]}" || code=$?
    # options other than --full may choose no test in one of the runs
    if [[ $code == 5 && -n ${options[*]#--full} ]]; then return; fi
    return "$code"
}

case $named in
    "")
        run_pytest --ignore=tests/triton_interpreted
        if [[ -d tests/triton_interpreted ]]; then
            TRITON_INTERPRET=1 run_pytest tests/triton_interpreted
            # its exhaustive grid, interpreted, takes a quarter of an hour: that is for a GPU
            options=("${options[@]/#--full/--quiet}")
            TRITON_INTERPRET=1 run_pytest tests/conformance -k triton
        else
            echo "No tests/triton_interpreted: nothing was run in Triton's interpreter."
        fi
        ;;
    tests/triton_interpreted*) TRITON_INTERPRET=1 run_pytest ;;
    *) run_pytest --ignore=tests/triton_interpreted ;;
esac
