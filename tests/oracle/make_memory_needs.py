#!/usr/bin/env python3
"""Records DeepSpeed's own estimates of memory, as tests/data/config/memory-needs.json.

    python3 -m venv venv && venv/bin/pip install torch deepspeed==0.19.8
    venv/bin/python tests/oracle/make_memory_needs.py

One object a line: the arguments of estimate_zero2_model_states_mem_needs or of
estimate_zero3_model_states_mem_needs (additional_buffer_factor 1) and what they return, in bytes:
cpu_mem a node, gpu_mem a rank, and, for stage 3, largest_layer_memory.
"""

import json
import pathlib

from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "config" / "memory-needs.json"
# Multiples of twice any world size below: the estimates know no padding.
MODELS = [(1_000_000 * 64, 1_000_000), (7_241_728 * 1024, 131_072_000)]
MACHINES = [(1, 1), (8, 1), (8, 4), (4, 2)]


def main():
    lines = []
    for total, layer in MODELS:
        for gpus, nodes in MACHINES:
            setup = {"total_params": total, "num_gpus_per_node": gpus, "num_nodes": nodes}
            for offload in (False, True):
                options = {**setup, "cpu_offload": offload, "additional_buffer_factor": 1}
                cpu, gpu = estimate_zero2_model_states_mem_needs(**options)
                lines.append({"stage": 2, **options, "cpu_mem": cpu, "gpu_mem": gpu})
                for offload_params in (False, True) if offload else (False,):
                    options3 = {**options, "largest_layer_params": layer,
                                "cpu_offload_params": offload_params, "zero_init": True}
                    cpu, gpu, largest = estimate_zero3_model_states_mem_needs(**options3)
                    lines.append({"stage": 3, **options3, "cpu_mem": cpu, "gpu_mem": gpu,
                                  "largest_layer_memory": largest})
    OUT.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} estimates")


if __name__ == "__main__":
    main()
