#!/usr/bin/env bash
# Builds the release binaries and a wheel of the Python package that carries them.
#
#   bash deploy/build_wheel.sh [OUT]
#
# OUT (default: build/wheel) gets zerocast-*.whl, for Linux with a glibc not older than this
# machine's. ZEROCAST_BUILD_DIR names a configured build folder to take instead of build/release.
# Needs the packages of deploy/packages.txt and, once, the package index for the tools of
# client/python/build_support/requirements.txt.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(realpath -m -- "${1:-$root/build/wheel}")"
cd "$root"
build="${ZEROCAST_BUILD_DIR:-$root/build/release}"
work="$build/wheel"

fail() {
  echo "build_wheel.sh: $*" >&2
  exit 1
}

mkdir -p "$work" "$out"
if [[ -z "${ZEROCAST_BUILD_DIR:-}" ]]; then
  bash deploy/install_packages.sh deploy/packages.txt
  cmake --preset release >"$work/configure.log" 2>&1 || { cat "$work/configure.log" >&2; fail "cmake failed"; }
fi
[[ -f "$build/CMakeCache.txt" ]] || fail "$build is no build folder; configure it, or unset ZEROCAST_BUILD_DIR"
cmake --build "$build" --target zerocast zerocast-server zerocast-agent --parallel "$(nproc)" >&2

in_venv=(python3 -B tests/house/in_venv.py "$build/venv/wheel" client/python/build_support/requirements.txt)
tools="$build/venv/wheel/bin"
"${in_venv[@]}" python -c 'pass'
PATH="$tools:$PATH" python3 -B client/python/build_support/zc_bundle.py "$work/bundle" "$build/bin"

# A copy: what is built leaves nothing in the sources, and finds nothing of an earlier build.
rm -rf "$work/source" "$work/made"
mkdir -p "$work/source/client"
cp -r client/python "$work/source/client/python"
cp -r proto "$work/source/proto"
ZEROCAST_BUNDLE="$work/bundle" "$tools/python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
  --no-index --no-build-isolation --wheel-dir "$work/made" "$work/source/client/python" >&2
wheel="$(basename -- "$work"/made/zerocast-*.whl)"
rm -f "$out"/zerocast-*.whl
mv -- "$work/made/$wheel" "$out/$wheel"
echo "$out/$wheel: $(du -h --apparent-size "$out/$wheel" | cut -f1), $(du -sh --apparent-size "$work/bundle" | cut -f1) installed"
