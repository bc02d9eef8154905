#!/usr/bin/env bash
# Sets up and runs the tests; needs no GPU.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
install=yes

usage() {
    cat <<'EOF'
Usage: [PYTHON=python3] ./run_tests.sh [--full] [--no-install] [options of pytest]

Installs the project into .venv (once), then runs the tests in several jobs, as many at once
as there are cores (JOBS=1: one after another); on a machine with a GPU, one after another.

  --full        also the exhaustive grids
  --no-install  run in PYTHON as it is, with nothing installed (a machine without a network)
  -h, --help    this text

Other arguments go to pytest, in all jobs: ./run_tests.sh -x -k zigzag
With the path of a test there is one run:  ./run_tests.sh tests/unit/plan/test_plan.py
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

source scripts/test_jobs.sh
case $named in
    "")
        source scripts/jobs.sh
        queue_tests
        run_jobs
        ;;
    tests/triton_interpreted*) interpreted ;;
    *) run_pytest --ignore=tests/triton_interpreted ;;
esac
