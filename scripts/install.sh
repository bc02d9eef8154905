# shellcheck shell=bash
# Sourced by the scripts at the top of the checkout, which set
#   checkout  its folder
#   PYTHON    the Python to start from
#   install   yes: install the project into .venv, and let PYTHON be the one in there;
#             no: PYTHON runs as it is

lacking() { # this machine cannot do what was asked for
    printf '%s\n' "$*" >&2
    exit 3
}

pip_install() {
    "$checkout/.venv/bin/python" -m pip install -qq --disable-pip-version-check \
        --constraint "$checkout/constraints.txt" "$@"
}

command -v "$PYTHON" >/dev/null ||
    lacking "There is no $PYTHON here: Python 3.11 or newer is needed; PYTHON=... names another."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    lacking "$PYTHON is $("$PYTHON" --version): 3.11 or newer is needed; PYTHON=... names another."

if [[ $install == yes ]]; then
    # What is installed, and where: a change of either file, or a moved checkout, installs again.
    wanted=$(cd "$checkout" && pwd -P && cksum pyproject.toml constraints.txt)
    if [[ $(cat "$checkout/.venv/installed" 2>/dev/null) != "$wanted" ]]; then
        echo "Installing the project into .venv, with the versions of constraints.txt ..." >&2
        # --clear: if there is one, it was left half made or its Python is gone
        "$checkout/.venv/bin/python" -m pip --version >/dev/null 2>&1 ||
            "$PYTHON" -m venv --clear "$checkout/.venv" ||
            lacking "$PYTHON cannot make a virtual environment (Debian: apt install python3-venv)."
        # hatchling first and no isolation, so that the build has the tested version too
        pip_install hatchling &&
            pip_install --no-build-isolation --editable "$checkout[dev]" ||
            lacking "pip could not install the project. Without a network, use a Python that has" \
                "what pyproject.toml lists: PYTHON=python3 $0 --no-install"
        echo "$wanted" >"$checkout/.venv/installed"
    fi
    PYTHON=$checkout/.venv/bin/python
fi

# Workers are started from any folder; they find this checkout and not an installed copy.
export PYTHONPATH=$checkout:$checkout/backends${PYTHONPATH:+:$PYTHONPATH}
