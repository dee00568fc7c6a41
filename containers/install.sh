#!/bin/sh
# Fills an image: Python, the packages of its lock file, chainsweep's wheel. Arguments: name of the lock, commit.
# Wheels in a folder mounted at /mnt stand for the net, and a base that has Python needs no package mirror either.
set -eu
lock_name=$1 commit=$2
build=/opt/build prefix=/opt/chainsweep

if ! python3 -c 'import ensurepip' 2>/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3 python3-venv ca-certificates
fi
python3 -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "the lock files are for Python 3.11, the base has " + sys.version)'

python3 -m venv "$prefix"
pip() { "$prefix/bin/python" -m pip --disable-pip-version-check --no-cache-dir "$@"; }
if ls /mnt/*.whl >/dev/null 2>&1; then set -- --no-index --find-links /mnt; else set --; fi
pip install --no-compile --require-hashes "$@" --requirement "$build/lock.txt"
pip install --no-compile --no-deps --no-index "$build"/wheel/chainsweep-*.whl

# What no job reads: tests, headers, static libraries, documentation, package lists.
site=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
find "$site" -depth -type d \( -name tests -o -name include \) -exec rm -rf {} +
find "$site" "$prefix/lib" -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.cuh' -o -name '*.pyi' \) -delete
rm -rf "$prefix/include" "$prefix/share/man" "$prefix/share/doc"
"$prefix/bin/python" -m compileall -q -j 0 -x '/py31[2-9]_' "$site"  # torch carries tests in the syntax of newer Pythons
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /root/.cache

cp "$build/selftest.py" "$prefix/selftest.py"
cat > "$prefix/environment.sh" <<'END'
export PATH="/opt/chainsweep/bin:$PATH"
# Nothing of the host's or the user's own Python may shadow the image's.
export PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1
unset PYTHONPATH PYTHONHOME
export LC_ALL=C.UTF-8 XDG_CACHE_HOME=/tmp/.cache MPLCONFIGDIR=/tmp/.cache/matplotlib
# Ranks of one node sit in different user namespaces: shared memory between them fails, so they talk by TCP.
export MPIR_CVAR_NOLOCAL="${MPIR_CVAR_NOLOCAL:-1}"
END
{
    printf 'org.opencontainers.image.title chainsweep %s\n' "$lock_name"
    printf 'org.opencontainers.image.version %s\n' "$("$prefix/bin/chainsweep" --version | awk '{print $NF}')"
    printf 'org.opencontainers.image.revision %s\n' "$commit"
    printf 'chainsweep.lock.sha256 %s\n' "$(sha256sum "$build/lock.txt" | cut -d' ' -f1)"
} >> "$APPTAINER_LABELS"
rm -rf "$build"
