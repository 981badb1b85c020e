#!/usr/bin/env python3
"""Asks one DeepSpeed release, the one on PYTHONPATH, what it makes of configs.

    deepspeed_probe.py < JOBS > RESULTS

JOBS is a JSON list, RESULTS the list of what they give: "keys" the keys that the release knows; {"ask": CASES} an answer
to each case {config | text, world_size, model_spec}. Each job runs in a process of its own, forked when all is imported:
nothing that one leaves behind (warnings that come once) is seen by the next.

An answer is {"raises": {"stage", "type", "text"}}, {"logs": [...]} or "silent". Stages, in the engine's order: config
(DeepSpeedConfig), engine (the engine's checks), model (sending its parameters, where the case has a model), optimizer,
scheduler, placement (groups, NVMe folders). The kernels of DeepSpeed's own optimizers need a GPU, so stand-ins with their signatures take their place. Works without a GPU.
"""

import contextlib
import copy
import inspect
import io
import json
import logging
import os
import re
import sys
import tempfile
import traceback
import typing

os.environ.setdefault("DS_ACCELERATOR", "cpu")
with contextlib.redirect_stdout(sys.stderr):
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime import config as ds_config
    from deepspeed.runtime import engine as ds_engine
    from deepspeed.runtime import lr_schedules
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel
    from deepspeed.runtime.zero import utils as zero_utils
    from deepspeed.runtime.zero.partition_parameters import Init
    from deepspeed.utils import groups, logger

# Keys that deepspeed/__init__.py and zero.Init read, before or beside DeepSpeedConfig.
READ_ELSEWHERE = ("sequence_parallel_size", "data_parallel_size")


# ---- What a release reads ------------------------------------------------------------------------
class Spy(dict):
    """A dict that notes which keys are asked for, and with which default."""

    def __init__(self, values, path, log):
        super().__init__()
        self.path, self.log = path, log
        for key, value in values.items():
            below = f"{path}.{key}" if path else key
            dict.__setitem__(self, key, Spy(value, below, log) if isinstance(value, dict) else value)

    def note(self, key, default=None):
        known = self.log.setdefault(self.path, {})
        if known.get(key) is None:
            known[key] = default

    def get(self, key, default=None):
        self.note(key, default)
        return dict.get(self, key, default)

    def __getitem__(self, key):
        self.note(key)
        return dict.__getitem__(self, key)

    def __contains__(self, key):
        self.note(key)
        return dict.__contains__(self, key)

    def keys(self):
        return SpyKeys(self)


class SpyKeys:
    def __init__(self, spy):
        self.spy = spy

    def __contains__(self, key):
        return key in self.spy

    def __iter__(self):
        return iter(dict.keys(self.spy))


# Every section that is read key by key, filled so that all of it is read.
SECTIONS = {
    "train_micro_batch_size_per_gpu": 1,
    "optimizer": {"type": "AdamW", "params": {}},
    "scheduler": {"type": "WarmupLR", "params": {}},
    "activation_checkpointing": {},
    "flops_profiler": {},
    "autotuning": {"model_info": {}},
    "checkpoint": {"parallel_write": {}, "writer": {}},
    "data_types": {},
    "aio": {},
    "torch_autocast": {"dtype": "bf16", "lower_precision_safe_modules": []},
    "timers": {"throughput": {}},
    "data_efficiency": {
        "data_sampling": {"curriculum_learning": {"enabled": True, "curriculum_metrics": {}},
                          "dynamic_batching": {"enabled": True, "max_tokens": 1}},
        "data_routing": {"random_ltd": {"enabled": True}}},
    "expert_parallel": {"enabled": False},
}


def read_keys():
    """{section: {key: default}} of what is read by name."""
    log = {}
    ds_config.DeepSpeedConfig(Spy(SECTIONS, "", log))
    with open(deepspeed.__file__, encoding="utf-8") as file:
        source = file.read()
    for key in READ_ELSEWHERE:
        assert f'"{key}"' in source, f"deepspeed/__init__.py no longer reads {key}"
        log[""].setdefault(key, None)
    zero_config = inspect.getsource(sys.modules["deepspeed.runtime.zero.config"])
    assert '"allgather_size"' in zero_config
    log[""].setdefault("allgather_size", None)
    return log


def describe_type(annotation):
    """(type, nullable, values or class)"""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Union:
        rest = [a for a in args if a is not type(None)]
        if len(rest) == 1:
            kind, _, more = describe_type(rest[0])
            return kind, type(None) in args, more
        return "|".join(sorted(describe_type(a)[0] for a in rest)), type(None) in args, None
    if origin is typing.Literal:
        return "one of", False, list(args)
    if origin is list:
        kind, _, more = describe_type(args[0])
        return f"list of {kind}", False, more
    if origin is dict or annotation is dict or annotation is typing.Dict:
        return "object", False, None
    if annotation in (list, tuple):
        return "list", False, None
    if annotation in (bool, int, float, str):
        return annotation.__name__, False, None
    if annotation is object:
        return "any", False, None
    if annotation is torch.dtype:
        return "never", False, None
    if inspect.isclass(annotation):
        if issubclass(annotation, DeepSpeedConfigModel):
            return "section", False, annotation
        if issubclass(annotation, int):
            return "one of", False, sorted({int(m) for m in annotation})
        if issubclass(annotation, str):
            return "one of", False, [m.value for m in annotation]
        if annotation.__name__ == "Path":
            return "str", False, None
    raise ValueError(f"a type that the table has no word for: {annotation}")


def plain(value):
    """A default as JSON, or None where JSON has none."""
    if hasattr(value, "value") and not isinstance(value, DeepSpeedConfigModel):
        value = value.value
    return value if isinstance(value, (bool, int, float, str)) else None


def describe_model(path, model, out):
    """Adds a pydantic section, and those below it, to out."""
    fields = out.setdefault(path, {})
    for name, info in model.model_fields.items():
        kind, nullable, more = describe_type(info.annotation)
        key = info.alias or name
        entry = {"type": kind}
        if nullable:
            entry["null"] = True
        if info.alias and info.alias != name:
            entry["name"] = name
        default = plain(info.get_default(call_default_factory=True))
        if default is not None:
            entry["default"] = int(default) if isinstance(default, int) and not isinstance(default, bool) else default
        for constraint in info.metadata:
            for bound in ("gt", "ge", "lt", "le"):
                if hasattr(constraint, bound):
                    entry[bound] = getattr(constraint, bound)
        extra = info.json_schema_extra or {}
        if extra.get("deprecated"):
            entry["deprecated"] = True
            if extra.get("new_param"):
                entry["new"] = extra["new_param"]
                entry["sets"] = bool(extra.get("set_new_param", True))
        if kind == "section":
            describe_model(f"{path}.{key}", more, out)
        elif more is not None:
            entry["values"] = more
        fields[key] = entry


def model_sections():
    """{section: {key: description}} of what pydantic checks."""
    config = ds_config.DeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "comms_logger": {},
                                        "weight_quantization": {}})
    out = {}
    sections = {
        "zero_optimization": config.zero_config, "fp16": config.float16_config, "bf16": config.bfloat16_config,
        "comms_logger": config.comms_config.comms_logger, "hybrid_engine": config.hybrid_engine,
        "weight_quantization": config.weight_quantization_config, "compile": config.compile_config,
        "timers.throughput": config.timers_config, "tensor_parallel": config.tensor_parallel_config}
    for name in ("tensorboard", "wandb", "csv_monitor", "comet"):
        sections[name] = getattr(config.monitor_config, name)
    for path, model in sections.items():
        describe_model(path, type(model), out)
    return out


# Values by kind: null, boolean, integer, float, string, "auto", list, object.
KINDS = {"n": [None], "b": [True, False], "i": [1, 2, 16, 0], "f": [2.5, 1.0, 0.0], "s": ["x", "fp16", ""],
         "a": ["auto"], "l": [[], ["x"], [1]], "d": [{}, {"x": 1}]}


def refused_kinds(path, key):
    """Kinds of values that a key refuses: {"always", "true" (all but falsy ones), "false", "sometimes"}."""
    out = {"always": "", "true": "", "false": "", "sometimes": ""}
    for kind, values in KINDS.items():
        refused = []
        for value in values:
            config = copy.deepcopy(SECTIONS)
            node = config
            for name in filter(None, path.split(".")):
                node = node.setdefault(name, {})
            node[key] = copy.deepcopy(value)
            refused.append("raises" in ask_stages(config, 1, stages=("config", )))
        if all(refused):
            out["always"] += kind
        elif not any(refused):
            continue
        elif refused == [bool(value) for value in values]:
            out["true"] += kind
        elif refused == [not value for value in values]:
            out["false"] += kind
        else:
            out["sometimes"] += kind
    return {how: kinds for how, kinds in out.items() if kinds}


def parameters(callable_):
    """{parameter: {default, required}} of a constructor, without self and the first argument."""
    out = {}
    for parameter in list(inspect.signature(callable_).parameters.values())[1:]:
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue  # what is passed on: the classes it goes to are asked themselves
        entry = {}
        if parameter.default is inspect.Parameter.empty:
            entry["required"] = True
        elif plain(parameter.default) is not None:
            entry["default"] = plain(parameter.default)
        out[parameter.name] = entry
    return out


def optimizers():
    """{type: {parameter: {...}}}: what any of the classes that the engine may choose takes."""
    from deepspeed.ops import adagrad, adam, lamb, lion
    zenflow = getattr(adam, "ZenFlowCPUAdam", None)
    adams = [adam.FusedAdam, adam.DeepSpeedCPUAdam, torch.optim.Adam, torch.optim.AdamW] + ([zenflow] if zenflow else [])
    classes = {"adam": adams, "adamw": adams, "adagrad": [adagrad.DeepSpeedCPUAdagrad, torch.optim.Adagrad],
               "lamb": [lamb.FusedLamb], "lion": [lion.DeepSpeedCPULion, lion.FusedLion]}
    out = {name: None for name in ds_config.DEEPSPEED_OPTIMIZERS}
    for name, choices in classes.items():
        out[name] = {}
        for choice in choices:
            out[name].update(parameters(choice))
        if name in ("adam", "adamw"):
            out[name].update({ds_config.TORCH_ADAM_PARAM: {}, ds_config.ADAM_W_MODE: {}})
            out[name].pop("adamw_mode", None)  # the engine passes it itself
    for name, value in vars(torch.optim).items():
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer:
            out[name] = parameters(value)
    return out


def schedulers():
    out = {}
    for name, value in vars(lr_schedules).items():
        if inspect.isclass(value) and value.__module__ == lr_schedules.__name__:
            out[name] = parameters(value)
    for name, value in vars(torch.optim.lr_scheduler).items():
        if inspect.isclass(value) and issubclass(value, torch.optim.lr_scheduler.LRScheduler) and \
                value is not torch.optim.lr_scheduler.LRScheduler and not name.startswith("_"):
            out.setdefault(name, parameters(value))
    return out


def keys():
    models, read = model_sections(), read_keys()
    loose = {}
    for path, known in sorted(read.items()):
        if path in models:
            continue
        for key, default in known.items():
            entry = {"refuses": refused_kinds(path, key)}
            default = plain(default)
            if default is not None:
                entry["default"] = default
            loose.setdefault(path, {})[key] = entry
    return {"models": models, "loose": loose, "optimizers": optimizers(), "schedulers": schedulers(),
            "zero_supported_optimizers": sorted({c.__name__ for c in zero_utils.ZERO_SUPPORTED_OPTIMIZERS}),
            "removed": {path: dict(getattr(ds_config, name, {})) for path, name in
                        (("", "_REMOVED_TOP_LEVEL_CONFIG_KEYS"), ("zero_optimization", "_REMOVED_ZERO_CONFIG_KEYS"))}}


# ---- What a release says -------------------------------------------------------------------------
class Logs(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        line = record.getMessage().split("\n")[0].strip()
        if line not in self.lines:
            self.lines.append(line)


def stand_in(real):
    """A class with real's signature that needs no kernels."""

    class StandIn(torch.optim.SGD):
        def __init__(self, params, *args, **kwargs):
            inspect.signature(real.__init__).bind(self, params, *args, **kwargs)
            super().__init__(params, lr=kwargs.get("lr", 1e-3))

    StandIn.__name__ = real.__name__
    if real in zero_utils.ZERO_SUPPORTED_OPTIMIZERS:
        zero_utils.ZERO_SUPPORTED_OPTIMIZERS.append(StandIn)
    return StandIn


def without_a_gpu():
    """Lets the engine's own code choose and check, on this CPU."""
    from deepspeed.ops import adagrad, adam, lamb, lion
    for module, names in ((adam, ("FusedAdam", "DeepSpeedCPUAdam", "ZenFlowCPUAdam")), (lamb, ("FusedLamb", )),
                          (lion, ("FusedLion", "DeepSpeedCPULion")), (adagrad, ("DeepSpeedCPUAdagrad", ))):
        for name in names:
            if hasattr(module, name):
                setattr(module, name, stand_in(getattr(module, name)))
    accelerator = get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    accelerator.is_bf16_supported = lambda: True


def bare_engine(config):
    """An engine of which only the config is there."""
    engine = ds_engine.DeepSpeedEngine.__new__(ds_engine.DeepSpeedEngine)
    torch.nn.Module.__init__(engine)
    values = {"_config": config, "client_optimizer": None, "client_lr_scheduler": None, "pipeline_parallelism": False,
              "has_moe_layers": False, "global_rank": 0, "zenflow": config.zero_config.zenflow is not None,
              "overlap_step": False, "_is_compiled": False}
    for name, value in values.items():
        object.__setattr__(engine, name, value)
    return engine


def check_placement(config, world_size):
    """The groups and the NVMe folders that zero.Init and stage 3 would make."""
    zero = config.zero_config
    if zero.stage != 3:
        return
    if zero.zero_hpz_partition_size > 1:
        groups._ensure_divisibility(world_size, min(zero.zero_hpz_partition_size, world_size))
    if zero.offload_param is not None and zero.offload_param.device == "nvme":
        Init._validate_remote_device(None, "nvme", config)
    if zero.offload_optimizer is not None and zero.offload_optimizer.device == "nvme":
        os.path.join(zero.offload_optimizer.nvme_path, "zero_stage_3")


def send_model(engine, spec):
    """The engine's way of sending a model's parameters to all ranks, but for the sending."""
    module = torch.nn.Module()
    for index, shape in enumerate(spec["params"].values()):
        module.register_parameter(f"p{index}", torch.nn.Parameter(torch.zeros(shape)))
    for name, value in (("module", module), ("dist_backend", "gloo"), ("seq_data_parallel_group", None)):
        object.__setattr__(engine, name, value)
    groups._get_broadcast_src_rank = lambda: 0
    deepspeed.comm.broadcast = lambda *args, **kwargs: None
    engine._broadcast_model()


def ask_stages(config, world_size, model_spec=None, stages=("config", "engine", "optimizer", "scheduler", "placement")):
    logs = Logs()
    logger.handlers = [logs]
    logger.propagate = False
    deepspeed.comm.get_rank = lambda group=None: 0
    deepspeed.comm.get_world_size = lambda group=None: world_size
    stage = "config"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            made = ds_config.DeepSpeedConfig(config)
            if "engine" in stages:
                stage = "engine"
                engine = bare_engine(made)
                engine._do_sanity_check()
                if model_spec is not None:
                    stage = "model"
                    send_model(engine, model_spec)
                # As the integration hands in its own, where the config has none.
                optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
                if made.optimizer_name is not None:
                    stage = "optimizer"
                    parameter = torch.nn.Parameter(torch.zeros(2, 2))
                    parameter.use_muon = True
                    optimizer = engine._configure_basic_optimizer([parameter])
                engine._do_optimizer_sanity_check(optimizer)
                stage = "scheduler"
                engine._scheduler_from_config(optimizer)
                stage = "placement"
                check_placement(made, world_size)
    except Exception as error:  # whatever it raises is the answer
        text = re.sub(r"\n\s*For further information visit \S+", "", str(error))
        return {"raises": {"stage": stage, "type": type(error).__name__, "text": text}}
    return {"logs": logs.lines} if logs.lines else {"silent": True}


def ask(case):
    world_size = case.get("world_size") or 1
    if "text" in case:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "config.json")
            with open(path, "w", encoding="utf-8") as file:
                file.write(case["text"])
            return ask_stages(path, world_size)
    return ask_stages(copy.deepcopy(case["config"]), world_size, case.get("model_spec"))


def run(job):
    if job == "keys":
        return keys()
    without_a_gpu()
    return [ask(case) for case in job["ask"]]


def run_apart(job):
    """What run gives, in a process of its own."""
    with tempfile.TemporaryFile("w+") as file:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                json.dump(run(job), file)
                file.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            raise RuntimeError(f"a job ended with status {status}")
        file.seek(0)
        return json.load(file)


def main():
    logger.setLevel(logging.WARNING)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first one imports torch's compiler
    json.dump([run_apart(job) for job in json.load(sys.stdin)], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
