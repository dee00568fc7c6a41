#!/bin/sh
# gpu_check.py on a machine that has JAX, NumPyro and torch, but neither chainsweep nor a network:
#
#     benchmarks/gpu_check.sh [OPTIONS OF gpu_check.py]
#     benchmarks/gpu_check.sh --exec COMMAND...        another command in the same environment
#
# The wheels of "make gpu-bundle" (or those in $BUNDLE) go into a folder of their own under build/, which the next run with the
# same wheels finds again. $PYTHON is the Python, python3 if not set. Nothing is fetched.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
bundle=${BUNDLE:-$root/build/gpu-bundle}
python=${PYTHON:-python3}

if ! ls "$bundle"/*.whl >/dev/null 2>&1; then
    echo "$bundle holds no wheels: run 'make gpu-bundle' where there is a network, and bring that folder" >&2
    exit 69
fi
site=$root/build/gpu-site-$({ "$python" --version; cksum "$bundle"/*.whl; } | cksum | cut -d' ' -f1)
if [ ! -d "$site" ]; then
    new=$site.new-$$
    trap 'rm -rf "$new"' EXIT
    if ! "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$new" "$bundle"/*.whl; then
        echo "$bundle does not suit $("$python" --version); for Python 3.13: make gpu-bundle BUNDLE_PYTHON=3.13" >&2
        exit 69
    fi
    # Another run may have been quicker.
    mv -T "$new" "$site" || [ -d "$site" ]
fi
export PYTHONPATH="$site:$root/src:$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = --exec ]; then
    shift
    exec "$@"
fi
exec "$python" "$root/benchmarks/gpu_check.py" "$@"
