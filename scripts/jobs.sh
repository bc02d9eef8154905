# shellcheck shell=bash
# Sourced by the scripts at the top of the checkout, for what may run side by side:
#
#   job TITLE COMMAND ...   puts a command, or a function, into the queue
#   run_jobs                runs the queue in its order and prints a table; 1 if a job failed, or
#                           if all of them end with NOTHING_RAN: they had nothing to do
#                           (a command of its own: inside `if` or before `||` bash has no set -e,
#                           not even in the functions that are jobs)
#
# As many run at once as there are cores, or JOBS. What a job prints comes in one piece when it
# ends. A job that fails stops no other. However this shell ends, its jobs end with it.

NOTHING_RAN=79 # no program's own
job_titles=()
job_commands=()

job() { # title, command ...
    job_titles+=("$1")
    job_commands+=("$(printf '%q ' "${@:2}")")
}

run_jobs() {
    local index failed=0 idle=0
    job_index=()   # by process id, of those that run
    job_began=()   # by index, in seconds of this shell
    job_seconds=() # by index, of those that have ended
    job_results=()
    job_folder=$(mktemp -d)
    start_watcher
    trap 'interrupted 130' INT
    trap 'interrupted 143' TERM
    for index in "${!job_titles[@]}"; do
        if ((${#job_index[@]} >= $(jobs_at_once))); then await_job; fi
        start_job "$index"
    done
    while ((${#job_index[@]})); do await_job; done
    trap - INT TERM
    exec {lifeline}>&-

    printf '\n%7s  %-11s  %s\n' seconds result job
    for index in "${!job_titles[@]}"; do
        printf '%7d  %-11s  %s\n' \
            "${job_seconds[index]}" "${job_results[index]}" "${job_titles[index]}"
        case ${job_results[index]} in
            passed) ;;
            "nothing ran") idle=$((idle + 1)) ;;
            *) failed=1 ;;
        esac
    done
    if ((idle && idle == ${#job_titles[@]})); then
        echo "Nothing ran: the options choose no test in any of these jobs." >&2
        failed=1
    fi
    return "$failed"
}

jobs_at_once() {
    if [[ -n ${JOBS:-} ]]; then
        echo "$JOBS"
    elif [[ -e /dev/nvidiactl ]]; then
        echo 1 # a GPU is one job's: its memory and its clock are measured
    else
        env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc # which counts threads, not cores, if set
    fi
}

# Ends every job's processes when this shell is gone, which a trap could not do after `kill -9`:
# the shell holds the other end of the pipe, and writes each job's process group into it.
start_watcher() {
    mkfifo "$job_folder/lifeline"
    set -m # a process group for each, which a signal to the shell's does not reach
    (
        trap '' HUP INT TERM
        declare -A groups
        while read -r what group; do
            case $what in
                begins) groups[-$group]=running ;;
                ended) unset "groups[-$group]" ;;
            esac
        done
        if ((${#groups[@]})) && kill -TERM -- "${!groups[@]}"; then
            sleep 2
            kill -KILL -- "${!groups[@]}" || true # they are gone already
        fi
        rm -rf "$job_folder"
    ) <"$job_folder/lifeline" >/dev/null 2>&1 &
    set +m
    disown
    exec {lifeline}>"$job_folder/lifeline"
}

start_job() { # index
    printf -- '-- begins: %s\n' "${job_titles[$1]}"
    set -m
    (
        exec {lifeline}>&-
        eval "${job_commands[$1]}"
    ) </dev/null >"$job_folder/$1" 2>&1 &
    set +m
    job_index[$!]=$1
    job_began[$1]=$SECONDS
    echo "begins $!" >&"$lifeline"
}

# The end of one: everything that it printed, how long it took and how it ended.
await_job() {
    local ended='' code=0 index
    # asked for one by one: `wait -n` with process ids forgets a job that has ended before it
    until [[ $ended ]]; do
        sleep 0.2
        for ended in "${!job_index[@]}" ''; do
            if [[ $ended ]] && ! kill -0 "$ended" 2>/dev/null; then break; fi
        done
    done
    wait "$ended" || code=$?
    index=${job_index[$ended]}
    unset "job_index[$ended]"
    echo "ended $ended" >&"$lifeline"
    job_seconds[index]=$((SECONDS - job_began[index]))
    case $code in
        0) job_results[index]=passed ;;
        "$NOTHING_RAN") job_results[index]="nothing ran" ;;
        *) job_results[index]="failed ($code)" ;;
    esac
    printf '\n== %s\n' "${job_titles[index]}"
    cat "$job_folder/$index"
    printf -- '-- %s after %d s: %s\n\n' \
        "${job_results[index]}" "${job_seconds[index]}" "${job_titles[index]}"
}

# What the unfinished had printed says where they were.
interrupted() { # exit code
    local index
    for index in "${job_index[@]}"; do
        printf '\n== %s\n' "${job_titles[index]}"
        cat "$job_folder/$index"
        printf -- '-- interrupted after %d s: %s\n' \
            $((SECONDS - job_began[index])) "${job_titles[index]}"
    done
    exit "$1"
}
