# shellcheck shell=bash
# Sourced by run_tests.sh and .ci/run: all tests, as jobs (see jobs.sh) and processes of their own.
# Takes PYTHON, and `options` for pytest, which are the same in each.

# Many tests start several ranks at once: more threads for each would fight for the same cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Compiled for GPUs that need not be here: a few seconds by default, with --full ten minutes.
COMPILED=(
    tests/unit/backends/test_triton_compile.py tests/unit/backends/test_triton_gathered_compile.py
    tests/unit/backends/test_triton_hopper_compile.py
    tests/unit/backends/test_triton_cached_compile.py
)

run_pytest() {
    local code=0
    # the hypothesis profile `ci`: the same examples every time, and no limit on the time of one
    "$PYTHON" -m pytest --hypothesis-profile=ci "$@" "${options[@]}" || code=$?
    # options other than --full may choose no test in one of the jobs, though not in all
    if [[ $code == 5 && -n ${options[*]#--full} ]]; then return "${NOTHING_RAN:-$code}"; fi
    return "$code"
}

interpreted() { # for a whole process, as Triton decides, and on a CPU, though there be a GPU
    CUDA_VISIBLE_DEVICES='' TRITON_INTERPRET=1 run_pytest "$@"
}

queue_tests() { # the longest first, so that none is left alone at the end
    job "Tests of the harness and of rings of ranks" run_pytest tests/harness tests/distributed
    job "Tests that compile our kernels" run_pytest "${COMPILED[@]}"
    job "Tests of everything else" run_pytest --ignore=tests/triton_interpreted \
        --ignore=tests/harness --ignore=tests/distributed "${COMPILED[@]/#/--ignore=}"
    job "Tests in Triton's interpreter: our kernels" interpreted tests/triton_interpreted
    job "Tests in Triton's interpreter: conformance" interpreted tests/conformance -k triton
}
