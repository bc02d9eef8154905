#!/usr/bin/env bash
# Compares the backends that the suite for this machine names: correctness, speed, memory.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3}
install=yes

usage() {
    cat <<'EOF'
Usage: [PYTHON=python3] ./run_comparison_tests.sh [--no-install] [options of `bench`]

Installs the project into .venv (once), then runs `python -m ring_attn_bench bench`: the suite for
this machine. Without a GPU that is configs/cpu.toml, with every backend and peer that a CPU can run;
with GPUs configs/hopper.toml, whose backends are aten, cudnn, flash_attn_4, triton and plain torch.
`--backend NAME` runs another that is installed, `--suite peers` other people's rings. It prints the
tables and where the report lies.

  --no-install  run in PYTHON as it is, with nothing installed (a machine without a network)
  -h, --help    this text and, once installed, the options of `bench`

Exit codes: 0, what ran was right (unsupported and out of memory are answers); 1, something was
wrong, crashed or timed out, or statuses differ (coverage diff), something is worse (compare),
nothing fits (advise), a fault is not named (selftest), what is shipped is not right (tune), a
self-check finds a fault (env); 2, a mistake in the arguments or the suite; 3, the machine lacks what was asked for by name; 4, a file
cannot be read or written; 5, a bug of this program, which says what to report; 130, ended by
Ctrl-C; 143, terminated. What was measured is kept.
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
