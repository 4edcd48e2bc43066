#!/bin/sh
# Install the package from the clone that this script is in: all that a build of the images does.
# It takes options of pip, such as --no-index; PYTHON names another Python. What is installed already, the engine's torch
# first of all, stays as it is, or nothing is installed.
set -eu
python=${PYTHON:-python3}
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work" "$source/build" "$source"/*.egg-info' EXIT

"$python" -m pip freeze >"$work/before"
grep '==' "$work/before" >"$work/constraints" || true
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$@" "$source"
"$python" -m pip install --no-cache-dir --constraint "$work/constraints" "$@" "$(ls "$work"/*.whl)[examples,vqeval]"
"$python" -m pip freeze >"$work/after"
if changed=$(grep -vxFf "$work/after" "$work/before"); then
    echo "error: other versions of these were installed: $changed" >&2
    exit 1
fi
chmod a+rx "$source"/examples/*.py
