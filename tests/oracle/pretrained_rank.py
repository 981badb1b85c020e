"""One rank of pretrained_oracle_test: loads checkpoints one after the other and writes what came of each.

    pretrained_rank.py HOW CONFIG OUT NAME=FOLDER ...

HOW is "library" (the library's own from_pretrained under the DeepSpeed config CONFIG, JSON), "zerocast", or "plain"
(the library's without DeepSpeed, floating parameters cast as ZeRO-3 would). Rank 0 writes OUT/NAME.HOW.json: the digest
of each gathered parameter and each buffer, and the loading info; every other rank OUT/NAME.HOW.RANK.json: its buffers. "library" lets
an exception end the process, for the other ranks then hang.
"""

import gc
import hashlib
import json
import os
import pathlib
import sys

import torch
import transformers

SEED = 7
INFO = ("missing_keys", "unexpected_keys", "mismatched_keys")


def digest(tensor):
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return [list(tensor.shape), str(tensor.dtype), hashlib.sha256(data).hexdigest()]


def parameters_of(model):
    made = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        if hasattr(param, "ds_id"):
            import deepspeed
            with deepspeed.zero.GatheredParameters([param]):
                made[name] = digest(param.data)
        else:
            made[name] = digest(param.data)
    return made


def load(how, config, folder):
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    cls = getattr(transformers, expected["architecture"])
    keywords = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    torch.manual_seed(SEED)  # what is missing is initialised by it
    if how == "zerocast":
        import zerocast
        return zerocast.from_pretrained(cls, folder, config, **keywords)
    if how == "plain":
        model, info = cls.from_pretrained(folder, **keywords)
        for param in model.parameters():
            if param.is_floating_point():
                param.data = param.data.to(torch.bfloat16)
        return model, info
    from transformers.integrations import HfDeepSpeedConfig
    alive = HfDeepSpeedConfig(config)
    made = cls.from_pretrained(folder, **keywords)
    del alive
    return made


def main():
    how, config, out = sys.argv[1], json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
    rank = int(os.environ.get("RANK", "0"))
    transformers.logging.set_verbosity_error()
    if how != "plain":
        import deepspeed
        deepspeed.init_distributed("gloo")
    for argument in sys.argv[4:]:
        name, _, folder = argument.partition("=")
        model, info = load(how, config, pathlib.Path(folder))
        made = {"buffers": {name: digest(buffer) for name, buffer in model.named_buffers()}}
        made["parameters"] = parameters_of(model)
        made["info"] = {key: sorted(map(str, info[key])) for key in INFO}
        file = f"{name}.{how}.json" if rank == 0 else f"{name}.{how}.{rank}.json"
        (out / file).write_text(json.dumps(made), encoding="utf-8")
        model = info = None
        gc.collect()


if __name__ == "__main__":
    main()
