#!/usr/bin/env bash
# Makes .venv with every dependency and the native extension. Compiling and installing go side by side.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
BIN=.venv/bin

fail() { printf '\nllama-gossip: %s\n' "$1" >&2; exit 1; }

check_prerequisites() {
    command -v "$PYTHON" >/dev/null || fail "Python is missing: install Python 3.11 or newer (or name it: make PYTHON=python3.12)."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "$("$PYTHON" --version) is too old: Python 3.11 or newer is needed (name one: make PYTHON=python3.12)."
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "This Python cannot make environments: install its venv package (Debian: apt-get install python3-venv)."
    command -v cargo >/dev/null || fail "Rust is missing: install Rust 1.91 or newer with rustup."
    local minor
    minor=$(rustc --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [ "${minor:-0}" -ge 91 ] || fail "$(rustc --version) is too old: Rust 1.91 or newer is needed (rustup update)."
    command -v cc >/dev/null || fail "A C compiler is missing (Debian: apt-get install build-essential)."
}

# One package, pinned by the lock file's hashes, installed by pip; uv then installs the rest.
install_uv() {
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >.venv/uv.lock
    "$BIN/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.lock
}

install_dependencies() {
    cmp -s requirements.lock .venv/installed.lock && return
    echo "Installing Python packages into .venv …"
    [ -x "$BIN/uv" ] || install_uv
    VIRTUAL_ENV=.venv "$BIN/uv" pip install --quiet --require-hashes -r requirements.lock
    cp requirements.lock .venv/installed.lock
}

compile_dependencies() {
    echo "Compiling the native extension (minutes the first time) …"
    PYO3_PYTHON="$PWD/$BIN/python" cargo build --quiet --locked --lib --features pyo3/extension-module
}

check_prerequisites
[ -x "$BIN/python" ] || "$PYTHON" -m venv .venv
compile_dependencies &
compiling=$!
install_dependencies || { kill "$compiling" 2>/dev/null; fail "The Python packages could not be installed; the reason stands above."; }
wait "$compiling" || fail "The native extension did not compile; the reason stands above."
VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/$BIN:$PATH" maturin develop --quiet --locked --uv \
    || fail "The native extension could not be put into .venv."
touch .venv/.ready
