#!/usr/bin/env bash
# Installs what is missing, builds preset release and runs all tests; from any folder.
#
#   bash tests/run.sh [CTEST ARG ...]        e.g. bash tests/run.sh -L unit
#
# As root or through sudo, unless all packages are installed. The last line is ctest's closing line.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
jobs="$(nproc)"

bash deploy/install_packages.sh deploy/packages.txt deploy/packages-dev.txt
cmake --preset release
cmake --build --preset release --parallel "$jobs"

# Tests that this machine cannot run are left out, each kind counted and with its reason.
build=build/release
left_out=()
leave_out() {
  local label=$1 reason=$2 count
  count="$(ctest --test-dir "$build" -N -L "^$label\$" | sed -n 's/^Total Tests: //p')"
  if [[ "${count:-0}" -gt 0 ]]; then
    left_out+=("$label")
    echo "run.sh: $count tests labelled $label left out: $reason"
  fi
}
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
  leave_out gpu "no NVIDIA GPU here"
fi
if [[ ! -d "$build/tests/cuda_emu/lib" ]]; then
  leave_out cuda_emu "this build has no CUDA, as there is no nvcc 13 (deploy/README.md, CUDA)"
fi
leave_out oracle "they install torch and DeepSpeed, or compile mutants for minutes: run them with ctest --test-dir $build -L oracle"
leave_out bench "measurements, not tests: run them with ctest --test-dir $build -L bench"
exclude=()
if [[ ${#left_out[@]} -gt 0 ]]; then
  exclude=(-LE "^($(IFS='|'; echo "${left_out[*]}"))\$")
fi

log="$build/Testing/run.log"
mkdir -p "$(dirname "$log")"
status=0
ctest --test-dir "$build" --parallel "$jobs" --no-tests=error --output-on-failure \
  "${exclude[@]}" "$@" 2>&1 | tee "$log" || status=$?
closing="$(grep -E '^[0-9]+% tests passed' "$log" || true)"
echo "${closing:-run.sh: ctest ended with status $status before its closing line}"
exit "$status"
