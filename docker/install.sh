#!/bin/sh
# Install the package from the clone that this script is in: all that a build of the images does.
# It takes options of pip, such as --no-index; PYTHON names another Python. An older installation of the package is
# replaced. Everything else that is installed, the engine's torch first of all, stays as it is; if pip had to change it,
# the script fails and says what.
set -eu
python=${PYTHON:-python3}
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

installed() { "$python" -m pip freeze | grep -v '^lvsa-vllm-omni' || true; }

# A copy is built, as setuptools writes into what it builds.
mkdir "$work/source"
tar -C "$source" --exclude='./.*' --exclude=./outputs --exclude=./build -cf - . | tar -C "$work/source" -xf -
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$@" "$work/source"
wheel=$(ls "$work"/*.whl)

installed >"$work/before"
grep '==' "$work/before" >"$work/constraints" || true
"$python" -m pip install --no-cache-dir --constraint "$work/constraints" "$@" "$wheel[examples,vqeval]"
"$python" -m pip install --quiet --no-cache-dir --no-deps --force-reinstall "$@" "$wheel"
installed >"$work/after"
if changed=$(grep -vxFf "$work/after" "$work/before"); then
    echo "error: other versions of these were installed: $changed" >&2
    exit 1
fi
chmod a+rx "$source"/examples/*.py
