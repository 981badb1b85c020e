#!/bin/sh
# deepspeed.sh MODEL: on one node, with GPUS processes (8).
cd "$(dirname "$0")" || exit
exec deepspeed --num_gpus "${GPUS:-8}" train.py "$1" zero3.json
