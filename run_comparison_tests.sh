#!/usr/bin/env bash
# Compares every backend that can run on this machine: correctness, speed, memory.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
install=yes

usage() {
    cat <<'EOF'
Usage: [PYTHON=python3] ./run_comparison_tests.sh [--no-install] [options of `bench`]

Installs the project into .venv (once), then runs `python -m ring_attn_bench bench`: the suite for
this machine, configs/cpu.toml or configs/hopper.toml, over every backend that can run here. It
prints the tables and where the report lies.

  --no-install  run in PYTHON as it is, with nothing installed (a machine without a network)
  -h, --help    this text and, once installed, the options of `bench`

Exit code: 0 all right (unsupported and out of memory are answers), 1 something was wrong, crashed
or timed out, 2 a mistake in the suite or the arguments, 3 the machine lacks what was asked for,
4 a file could not be read or written, 130 or 143 interrupted or terminated: what was measured is
kept.
EOF
}

options=()
help=no
for argument in "$@"; do
    case $argument in
        --no-install) install=no ;;
        -h | --help) help=yes ;;
        *) options+=("$argument") ;;
    esac
done

if [[ $help == yes ]]; then
    usage
    # Asking for help installs nothing.
    if [[ $install == yes && ! -e $checkout/.venv/installed ]]; then exit 0; fi
    echo
    options=(--help)
fi

source "$checkout/scripts/install.sh"
exec "$PYTHON" -m ring_attn_bench bench "${options[@]}"
