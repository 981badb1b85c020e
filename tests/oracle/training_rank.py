"""One rank of training_cases: loads a model, trains it three steps under a real engine, saves it.

    training_rank.py HOW CONFIG OUT FOLDER [lora]

HOW is "library" or "zerocast". Rank 0 writes OUT/HOW.json: where its partitions are, the losses, the digests of the gathered parameters
before and after, how many arenas were mapped before and after deepspeed.initialize, the bytes of the swapper's files, and what one more
step makes before and after the engine's checkpoint is loaded. OUT/HOW-checkpoint is that, OUT/HOW-saved the library's.
"""

import gc
import json
import os
import pathlib
import sys

import deepspeed
import torch
import transformers
from deepspeed.accelerator import get_accelerator
from pretrained_rank import SEED, parameters_of

STEPS = 3


def load(how, config, folder):
    cls = transformers.AutoModelForCausalLM
    if how == "zerocast":
        import zerocast
        return zerocast.from_pretrained(cls, folder, config)
    from transformers.integrations import HfDeepSpeedConfig
    alive = HfDeepSpeedConfig(config)
    model = cls.from_pretrained(folder)
    model.kept_alive = alive
    return model


def mapped_arenas():
    """How many arenas, of host memory and of devices, this process has."""
    mapped = pathlib.Path("/proc/self/maps").read_text(encoding="utf-8").count("/memfd:zerocast")
    cuda = sys.modules.get("zerocast._cuda")
    return mapped + (sum(isinstance(found, cuda.DeviceMemory) for found in gc.get_objects()) if cuda else 0)


def placed(model):
    """Where the partition on this rank of each parameter is that is partitioned."""
    found = {}
    for name, param in model.named_parameters():
        own = getattr(param, "ds_tensor", None)
        if own is None:
            continue
        found[name] = [str(own.device), str(own.dtype), list(own.shape), own.status.name, str(own.final_location),
                       own.device.type == "cpu" and own.is_pinned()]
    return found


def with_lora(model):
    import peft
    torch.manual_seed(SEED)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))


def main():
    how, config, out, folder = sys.argv[1], json.loads(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
    transformers.logging.set_verbosity_error()
    on_cuda = get_accelerator().device_name() == "cuda"
    if on_cuda:
        torch.use_deterministic_algorithms(True, warn_only=True)
    deepspeed.init_distributed("nccl" if on_cuda else "gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(SEED)
    model = load(how, config, folder)
    if sys.argv[5:] == ["lora"]:
        model = with_lora(model)
    made = {"placed": placed(model), "before": parameters_of(model), "arenas_loaded": mapped_arenas()}
    model.train()
    trained = [param for param in model.parameters() if param.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(trained, lr=1e-3), config=config)
    del model
    gc.collect()
    made["arenas_initialized"] = mapped_arenas()
    torch.manual_seed(SEED + rank)
    vocabulary = engine.module.config.vocab_size

    def step(tokens):
        tokens = tokens.to(engine.device)
        loss = engine(input_ids=tokens, labels=tokens).loss
        engine.backward(loss)
        engine.step()
        return float(loss.detach()).hex()

    made["losses"] = [step(torch.randint(0, vocabulary, (2, 8))) for _ in range(STEPS)]
    made["after"] = parameters_of(engine.module)
    nvme = pathlib.Path(config["zero_optimization"].get("offload_param", {}).get("nvme_path", os.devnull))
    made["swapped"] = sum(file.stat().st_size for file in nvme.rglob("*") if file.is_file())
    engine.save_checkpoint(out / f"{how}-checkpoint")
    whole = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=False)
    if rank == 0:
        engine.module.save_pretrained(out / f"{how}-saved", state_dict=whole)
    tokens, made["next"] = torch.randint(0, vocabulary, (2, 8)), {}
    for time in ("first", "again"):
        made["next"][time] = {"loss": step(tokens), "parameters": parameters_of(engine.module)}
        engine.load_checkpoint(out / f"{how}-checkpoint")
    if rank == 0:
        (out / f"{how}.json").write_text(json.dumps(made), encoding="utf-8")
    torch.distributed.barrier()
    engine.destroy()
    os._exit(0)  # swappers of NVMe keep threads


if __name__ == "__main__":
    main()
