#!/bin/sh
# gpu_check.py on a machine that has JAX, NumPyro and torch, but neither chainsweep nor a network:
#
#     benchmarks/gpu_check.sh [OPTIONS OF gpu_check.py]
#     benchmarks/gpu_check.sh --exec COMMAND...        another command in the same environment
#
# The wheels of "make gpu-bundle" (or those in $BUNDLE) go into build/gpu-site, anew each time; $PYTHON is the Python, python3
# if not set. Nothing else is written, and nothing fetched.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
bundle=${BUNDLE:-$root/build/gpu-bundle}
python=${PYTHON:-python3}
site=$root/build/gpu-site

if ! ls "$bundle"/*.whl >/dev/null 2>&1; then
    echo "$bundle holds no wheels: run 'make gpu-bundle' where there is a network, and bring that folder" >&2
    exit 69
fi
rm -rf "$site"
if ! "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$bundle"/*.whl; then
    echo "the wheels in $bundle do not suit $("$python" --version): make gpu-bundle BUNDLE_PYTHON=3.13, say" >&2
    exit 69
fi
export PYTHONPATH="$site:$root/src:$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = --exec ]; then
    shift
    exec "$@"
fi
exec "$python" "$root/benchmarks/gpu_check.py" "$@"
