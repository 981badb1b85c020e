#!/bin/sh
# torchrun.sh MODEL: on one node, with GPUS processes (8).
cd "$(dirname "$0")" || exit
exec torchrun --standalone --nproc-per-node "${GPUS:-8}" train.py "$1" zero3.json
