#!/bin/sh
# The engine's tests with the oldest torch and transformers that pyproject.toml allows, in target/oldest.
set -eu
BIN="$PWD/.venv/bin"
OLDEST="$PWD/target/oldest"

"$BIN/uv" venv --quiet --allow-existing --python "$BIN/python" "$OLDEST"
"$BIN/uv" pip install --quiet --python "$OLDEST/bin/python" -r pyproject.toml \
    --extra torch --extra llamacpp --extra dev pip 'torch==2.11.*' 'transformers==5.17.*'
PYTHONPATH="$PWD/python" exec "$OLDEST/bin/python" -m pytest -p no:cacheprovider tests/engine "$@"
