"""One rank of zero_oracle_test and stages_oracle_test: loads a model by the library or by zerocast, tells all of it, trains it.

    engine_rank.py HOW OUT CASE ...

HOW is "library", "zerocast", or "installed": the library's call, by zerocast where that can. A CASE is JSON: name, checkpoint, config
(of DeepSpeed; null: none), and where wanted keywords (of from_pretrained), kind (how the model is made: see KINDS), change (of its
config), steps. OUT/NAME.HOW.RANK.json gets what came of it.
"""

import json
import os
import pathlib
import sys

import torch
import transformers
from pretrained_rank import SEED, digest, parameters_of

Auto = transformers.AutoModelForCausalLM


class WithEmpty(transformers.LlamaForCausalLM):
    """Has parameters without elements: one of the checkpoint, one that is not there."""

    def __init__(self, config):
        super().__init__(config)
        self.empty = torch.nn.Parameter(torch.ones(0, 8))
        self.missing = torch.nn.Parameter(torch.ones(3, 0))
        self.missing_ones = torch.nn.Parameter(torch.ones(9))  # which no initialisation touches


class WithLate(transformers.LlamaForCausalLM):
    """A part of it gets a parameter when it was already made."""

    def __init__(self, config):
        super().__init__(config)
        self.model.late = torch.nn.Parameter(torch.ones(5, 7))


class Within(transformers.LlamaForCausalLM):
    """A model that loads another while it is made."""

    def __init__(self, config):
        super().__init__(config)
        self.other = Auto.from_pretrained(config.other)


def within_another_init(from_pretrained, case):
    import deepspeed
    with deepspeed.zero.Init(config_dict_or_path=case["config"]):
        before = torch.nn.Linear(6, 5)
        model = from_pretrained(Auto, case)
    model.beside = before
    return model


def frozen(from_pretrained, case):
    model = from_pretrained(Auto, case)
    for name, param in model.named_parameters():
        param.requires_grad = "self_attn" in name
    return model


def with_config(from_pretrained, case):
    made = transformers.AutoConfig.from_pretrained(case["checkpoint"], **case["change"])
    return from_pretrained(Auto, {**case, "keywords": {"config": made}})


KINDS = {
    "auto": lambda from_pretrained, case: from_pretrained(Auto, case),
    "class": lambda from_pretrained, case: from_pretrained(getattr(transformers, case["class"]), case),
    "config": with_config,
    "empty": lambda from_pretrained, case: from_pretrained(WithEmpty, case),
    "frozen": frozen,
    "late": lambda from_pretrained, case: from_pretrained(WithLate, case),
    "nested": within_another_init,
    "within": lambda from_pretrained, case: from_pretrained(Within, case),
}


def library(cls, case):
    if case["config"] is not None:
        from transformers.integrations import HfDeepSpeedConfig
        alive = HfDeepSpeedConfig(case["config"])
        model = cls.from_pretrained(case["checkpoint"], **case.get("keywords", {}))
        model.kept_alive = alive
        return model
    return cls.from_pretrained(case["checkpoint"], **case.get("keywords", {}))


def by_zerocast(cls, case):
    import zerocast
    return zerocast.from_pretrained(cls, case["checkpoint"], case["config"], **case.get("keywords", {}))


def of_tensor(tensor, count):
    """What there is to tell of a partition; the elements of its first `count`."""
    if tensor is None:
        return None
    told = {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "device": str(tensor.device),
            "requires_grad": tensor.requires_grad, "pinned": torch.cuda.is_available() and tensor.is_pinned(),
            "contiguous": tensor.is_contiguous()}
    for name in ("ds_numel", "status", "final_location"):
        told[name] = str(getattr(tensor, name, "absent"))
    if "NOT_AVAILABLE" not in told["status"]:  # else it is in a file, or it is being moved
        told["data"] = digest(tensor[:count])
    return told


def of_parameter(param):
    told = {"dtype": str(param.dtype), "device": str(param.device), "requires_grad": param.requires_grad,
            "shape": list(param.shape), "is_initialized": getattr(param, "_is_hf_initialized", None)}
    if not hasattr(param, "ds_id"):
        return {**told, "data": digest(param.data)}
    for name in sorted(vars(param)):
        value = getattr(param, name)
        if name.startswith("ds_") and isinstance(value, (bool, int, str, torch.Size)):
            told[name] = str(value)
    for name in ("ds_status", "ds_param_type", "ds_active_sub_modules", "is_external_param"):
        told[name] = str(getattr(param, name))
    told["swapper"] = type(param.nvme_swapper).__name__
    told["methods"] = sorted(name for name, value in vars(param).items() if callable(value))
    size = param.ds_tensor.numel()
    used = min(max(param.ds_numel - size * param.ds_zero_partition_rank, 0), size)
    told["ds_tensor"] = of_tensor(param.ds_tensor, used)  # the library leaves its padding as it finds it
    secondary = param.ds_secondary_tensor
    told["ds_secondary_tensor"] = of_tensor(secondary, 0 if secondary is None else secondary.numel())
    return told


def told_of(model):
    by_id = {}
    return {
        "parameters": {name: of_parameter(param) for name, param in model.named_parameters(remove_duplicate=False)},
        "tied": [by_id.setdefault(id(param), name) for name, param in model.named_parameters(remove_duplicate=False)],
        "buffers": {name: [*digest(buffer), str(buffer.device)] for name, buffer in model.named_buffers()},
        "hooks": sorted(f"{name}: {type(module).__name__}" for name, module in model.named_modules()
                        if module._forward_pre_hooks or module._forward_hooks),
        "training": model.training, "dtype": str(model.dtype), "class": type(model).__name__,
        "attention": model.config._attn_implementation}


def train(model, case):
    """(losses, the parameters after it) of some steps."""
    model.train()
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    engine = None
    if case["config"] is not None:
        import deepspeed
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=case["config"])
    persistent = {name: getattr(param, "ds_persist", None) for name, param in model.named_parameters()}
    torch.manual_seed(SEED + int(os.environ.get("RANK", "0")))
    losses = []
    for _ in range(case["steps"]):
        tokens = torch.randint(0, model.config.vocab_size, (2, 8))
        loss = (engine or model)(input_ids=tokens, labels=tokens).loss
        if engine is not None:
            engine.backward(loss)
            engine.step()
        else:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss).hex())
    made = {"losses": losses, "persistent": persistent, "after": parameters_of(model)}
    if engine is not None:
        engine.destroy()
    return made


def main():
    how, out = sys.argv[1], pathlib.Path(sys.argv[2])
    transformers.logging.set_verbosity_error()
    if "WORLD_SIZE" in os.environ:
        import deepspeed
        deepspeed.init_distributed("gloo")
    if how == "installed":
        import zerocast
        zerocast.install()
    for text in sys.argv[3:]:
        case = json.loads(text)
        torch.manual_seed(SEED)
        model = KINDS[case.get("kind", "auto")](by_zerocast if how == "zerocast" else library, case)
        made = told_of(model)
        made["before"] = parameters_of(model)
        if case.get("steps"):
            made.update(train(model, case))
        file = out / f"{case['name']}.{how}.{os.environ.get('RANK', '0')}.json"
        file.write_text(json.dumps(made), encoding="utf-8")
        del model
    sys.stdout.flush()
    os._exit(0)  # swappers keep threads


if __name__ == "__main__":
    main()
