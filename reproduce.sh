#!/usr/bin/env bash
# Builds .venv/ from the pinned versions in .ci/constraints.txt, then runs crs-bench in it.
set -euo pipefail

UV_VERSION=0.13.9 # when uv is not on PATH, this one goes into .cache/uv/

usage() {
    cat <<'EOF'
usage: ./reproduce.sh [EXPERIMENT | setup | test] [ARGUMENT...]

  (nothing)    crs-bench run quick, then crs-bench run quick-colour
  EXPERIMENT   crs-bench run EXPERIMENT ARGUMENT...
  setup        build .venv/ and stop
  test         ruff check, mypy, then pytest -n 2 ARGUMENT...

Needs Python 3.11 or later; PYTHON=/path/to/python picks one.
EOF
}

die() {
    printf 'reproduce.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

# The real path of a Python >= 3.11, or nothing (a shim can be on PATH and still not run).
probe() {
    "$1" -c 'import sys; sys.version_info < (3, 11) and sys.exit(1); print(sys.executable)' \
        2>/dev/null
}

find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        probe "$PYTHON" || die "PYTHON=$PYTHON is not a working Python 3.11 or later"
        return
    fi
    for name in python3.13 python3.12 python3.11 python3; do
        probe "$name" && return
    done
    die "no Python 3.11 or later found; install one, or set PYTHON=/path/to/python"
}

# What .venv/ was built from: the files that choose its packages, its Python, where it lies.
fingerprint() {
    "$1" - <<'EOF'
import hashlib, os, sys
h = hashlib.sha256()
for name in ("pyproject.toml", ".ci/constraints.txt"):
    with open(name, "rb") as f:
        h.update(hashlib.sha256(f.read()).digest())
h.update(os.fsencode(f"{sys.version_info[:2]} {os.path.realpath('.')}"))
print(h.hexdigest())
EOF
}

# Sets UV to a uv that runs: from PATH, else one kept in .cache/uv/.
find_uv() {
    UV=uv
    "$UV" --version >/dev/null 2>&1 && return
    UV=.cache/uv/bin/uv
    [ "$("$UV" --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ] && return
    echo "reproduce.sh: installing uv $UV_VERSION into .cache/uv/" >&2
    rm -rf .cache/uv
    mkdir -p .cache
    if "$1" -m venv .cache/uv >/dev/null 2>&1; then
        .cache/uv/bin/python -m pip install -q "uv==$UV_VERSION" >&2 ||
            die "pip could not install uv $UV_VERSION; its message is above"
    else
        rm -rf .cache/uv
        "$1" -m pip --version >/dev/null 2>&1 ||
            die "$1 has neither a working venv nor pip: install them (on Debian: python3-venv), or uv"
        PIP_USER=0 "$1" -m pip install -q --target .cache/uv "uv==$UV_VERSION" >&2 ||
            die "pip could not install uv $UV_VERSION; its message is above"
    fi
    "$UV" --version >/dev/null || die "the uv installed in .cache/uv/ does not run"
}

setup() {
    local python stamp=.venv/crs-bench.stamp want
    python=$(find_python)
    want=$(fingerprint "$python")
    if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -x .venv/bin/crs-bench ] &&
        .venv/bin/python -c "" 2>/dev/null; then
        return
    fi
    find_uv "$python"
    echo "reproduce.sh: building .venv/ with $python (several GB on a first run)" >&2
    rm -rf .venv
    "$UV" venv -q --python "$python" .venv
    "$UV" pip install --python .venv/bin/python -c .ci/constraints.txt \
        --build-constraints .ci/constraints.txt -e '.[dev]'
    printf '%s\n' "$want" >"$stamp"
}

# Every check runs, whatever the others say; pytest's summary is the last thing printed.
run_tests() {
    local status=0
    .venv/bin/ruff check . || status=1
    .venv/bin/mypy bench || status=1
    [ "$status" = 0 ] || echo "reproduce.sh: ruff or mypy failed, so this run fails; pytest follows"
    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 \
        --dist loadfile --no-loadscope-reorder "$@" || status=$?
    return "$status"
}

case "${1:-}" in
-h | --help)
    usage
    exit
    ;;
-*)
    usage >&2
    die "unknown option: $1" 2
    ;;
setup)
    [ $# -eq 1 ] || die "setup takes no arguments" 2
    ;;
esac

unset CDPATH PYTHONHOME UV_SYSTEM_PYTHON
unset PYTHONDONTWRITEBYTECODE # or each process compiles its imports anew, for seconds
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
if [ -n "${PYTHON:-}" ] && [ "${PYTHON#*/}" != "$PYTHON" ] && [ "${PYTHON#/}" = "$PYTHON" ]; then
    PYTHON=$OLDPWD/$PYTHON # a relative path means relative to where the caller stood
fi
setup
case "${1:-}" in
setup) ;;
test) run_tests "${@:2}" ;;
"")
    .venv/bin/crs-bench run quick
    exec .venv/bin/crs-bench run quick-colour
    ;;
*) exec .venv/bin/crs-bench run "$@" ;;
esac
