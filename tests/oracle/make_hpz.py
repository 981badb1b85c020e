#!/usr/bin/env python3
"""Records the partitions that DeepSpeed makes with zero_hpz_partition_size.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 && venv/bin/pip install deepspeed==0.19.8
    venv/bin/python tests/oracle/make_hpz.py [FOLDER]

For each case it starts the ranks as processes on this machine's CPUs (gloo), forks of this one, which has imported the
libraries once (the import costs more than all the rest), builds the model of
tests/hpz_model.py under zero.Init, and writes FOLDER/wWhH.json (default: tests/data/hpz): for each rank and
parameter the sizes of the primary and of the secondary partition and the SHA-256 of their bytes. The rest of a
primary partition behind the parameter's elements is uninitialised memory and not hashed; the secondary's is zero.
"""

import hashlib
import json
import multiprocessing
import os
import pathlib
import socket
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
import hpz_model  # noqa: E402

# World size, zero_hpz_partition_size. The last one is more than there are ranks: DeepSpeed takes all of them.
CASES = ((4, 2), (6, 3), (4, 4), (2, 8))
TIMEOUT_S = 900


def sha256(tensor):
    import torch

    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def build_model(torch):
    """Modules named as the parameters are; under zero.Init each is partitioned when it is made."""
    def module(prefix):
        class Node(torch.nn.Module):
            def __init__(self):
                super().__init__()
                children = {}
                for name in hpz_model.SHAPES:
                    if not name.startswith(prefix):
                        continue
                    head, _, tail = name[len(prefix):].partition(".")
                    if tail:
                        children[head] = f"{prefix}{head}."
                        continue
                    data = torch.frombuffer(bytearray(hpz_model.float32_bytes(name)), dtype=torch.float32)
                    data = data.reshape(hpz_model.SHAPES[name]).clone()
                    self.register_parameter(head, torch.nn.Parameter(data))
                for child, below in children.items():
                    self.add_module(child, module(below))
        return Node()
    return module("")


def run_rank(group_size, environment):
    """One rank, in a process of its own; writes its record."""
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    import torch

    import deepspeed
    deepspeed.init_distributed("gloo")
    world_size = int(os.environ["WORLD_SIZE"])
    config = {"train_batch_size": world_size, "bf16": {"enabled": True},
              "zero_optimization": {"stage": 3, "zero_hpz_partition_size": group_size}}
    with deepspeed.zero.Init(config_dict_or_path=config, remote_device="cpu", dtype=torch.bfloat16):
        model = build_model(torch)
    rank = int(os.environ["RANK"])
    record = []
    for name, parameter in sorted(model.named_parameters()):
        primary, secondary = parameter.ds_tensor, parameter.ds_secondary_tensor
        held = max(0, min(parameter.ds_numel - rank * primary.numel(), primary.numel()))
        record.append({"name": name, "shape": list(parameter.ds_shape), "ds_numel": parameter.ds_numel,
                       "dtype": str(secondary.dtype).removeprefix("torch."),
                       "partition_numel": primary.numel(), "held_numel": held,
                       "held_sha256": sha256(primary[:held]), "secondary_numel": secondary.numel(),
                       "secondary_sha256": sha256(secondary)})
    pathlib.Path(os.environ["HPZ_OUT"]).write_text(json.dumps(record), encoding="utf-8")
    torch.distributed.barrier()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_case(world_size, group_size):
    """Starts the ranks; returns what they wrote."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        environment = {"WORLD_SIZE": str(world_size), "LOCAL_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(free_port())}
        files = [pathlib.Path(folder) / str(rank) for rank in range(world_size)]
        ranks = [fork.Process(target=run_rank,
                              args=(group_size, {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank),
                                                 "HPZ_OUT": str(file)}))
                 for rank, file in enumerate(files)]
        deadline = time.monotonic() + TIMEOUT_S
        try:
            for process in ranks:
                process.start()
            for process in ranks:
                process.join(max(0, deadline - time.monotonic()))
            codes = [process.exitcode for process in ranks]
        finally:
            for process in ranks:
                process.kill()
                process.join()
        if any(code != 0 for code in codes):
            raise RuntimeError(f"the ranks ended with {codes}")
        return {"world_size": world_size, "zero_hpz_partition_size": group_size,
                "ranks": [json.loads(file.read_text(encoding="utf-8")) for file in files]}


def main(folder):
    os.environ.update({"DS_ACCELERATOR": "cpu", "DS_IGNORE_CUDA_DETECTION": "1", "OMP_NUM_THREADS": "1"})
    import deepspeed  # noqa: F401
    for world_size, group_size in CASES:
        path = folder / f"w{world_size}h{group_size}.json"
        path.write_text(json.dumps(run_case(world_size, group_size), indent=1) + "\n", encoding="utf-8")
        print(path.name, flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else TESTS / "data" / "hpz")
