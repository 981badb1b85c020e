#!/usr/bin/env python3
"""Makes server/config/deepspeed_keys.json from the installed DeepSpeed releases.

    make_deepspeed_keys.py RELEASES OUT

RELEASES holds (or gets) one folder a release. What pydantic checks, what is read by name, what is refused and
what constructors take come from the releases themselves; types of keys whose default is null, and words that people
write for a key, are given here. A key that neither has a default nor a type here stops the script.
"""

import json
import sys
from pathlib import Path

import deepspeed_releases as releases

# Types of keys that are read by name and whose default says nothing.
TYPES = {
    "": {"train_batch_size": "int", "train_micro_batch_size_per_gpu": "int", "gradient_accumulation_steps": "int",
         "steps_per_print": "float", "communication_data_type": "str", "log_level": "str", "vocabulary_size": "int",
         "sequence_parallel_size": "int", "data_parallel_size": "int", "allgather_size": "int",
         "gradient_allreduce_op": "str", "datastates_ckpt": "any"},
    "activation_checkpointing": {"number_checkpoints": "int"},
    "autotuning": {"metric_path": "str", "arg_mappings": "object", "max_train_batch_size": "int",
                   "model_info_path": "str"},
    "autotuning.model_info": {"num_params": "int", "hidden_size": "int", "num_layers": "int"},
    "checkpoint.writer": {"data_parallel": "str"},
    "data_efficiency.data_sampling.curriculum_learning": {"curriculum_metrics": "object"},
    "data_efficiency.data_sampling.dynamic_batching": {"max_batch_size": "int", "max_tokens": "int"},
    "data_types": {"grad_accum_dtype": "str", "param_dtype": "str", "buffer_dtype": "str",
                   "keep_in_fp32_modules": "list of str|str"},
    "expert_parallel": {
        "preset_model": "str", "moe_layer_pattern": "str", "expert_pattern": "str", "router_pattern": "str",
        "route_norm": "bool", "num_expert_groups": "int", "num_limited_groups": "int", "top_k": "int|str",
        "load_balance_coeff": "float", "routed_scaling_factor": "float|str", "expert_w1": "str", "expert_w2": "str",
        "expert_w3": "str", "num_experts_attr": "str", "top_k_attr": "str", "has_shared_experts": "bool",
        "shared_experts_pattern": "str", "shared_experts_gate_pattern": "str", "expert_activation": "str"},
    "flops_profiler": {"output_file": "str"},
    "optimizer": {"type": "str", "params": "object", "legacy_fusion": "bool"},
    "scheduler": {"type": "str", "params": "object"},
    "torch_autocast": {"dtype": "str", "lower_precision_safe_modules": "list of str"},
}
# Values of strings. "any_case": compared without case. Refused where the release refuses other strings.
DTYPES = ["fp16", "float16", "half", "torch.float16", "bf16", "bfloat16", "torch.bfloat16", "fp32", "float32", "float",
          "torch.float32"]
VALUES = {
    ".communication_data_type": (["fp16", "bf16", "fp32"], True),
    ".seq_parallel_communication_data_type": (["fp16", "bf16", "fp32"], True),
    ".gradient_allreduce_op": (["mean", "sum"], True),
    "checkpoint.tag_validation": (["Warn", "Ignore", "Fail"], True),
    "checkpoint.writer.type": (["FAST", "PYTHON", "MOCK"], True),
    "checkpoint.writer.data_parallel": (["REPLICA", "SOCKET", "MACHINE"], True),
    "data_types.keep_in_fp32_modules": (["auto"], False),
    "torch_autocast.dtype": (DTYPES + ["int8", "torch.int8"], False),
    "data_types.grad_accum_dtype": (DTYPES, False),
    "data_types.param_dtype": (DTYPES, False),
    "data_types.buffer_dtype": (DTYPES, False),
    "autotuning.tuner_type": (["gridsearch", "random", "model_based"], False),
    "autotuning.metric": (["throughput", "latency", "flops"], False),
    "expert_parallel.score_apply": (["auto", "pre", "post"], False),
    "expert_parallel.combine_impl": (["auto", "weighted_sum", "fused_weighted_sum", "legacy_bmm"], False),
    "expert_parallel.score_func": (["auto", "softmax", "sigmoid"], False),
    "expert_parallel.comm_backend": (["comm", "deepep"], False),
}
# Ranges that nobody checks before the training does.
RANGES = {".gradient_clipping": {"ge": 0}, ".gradient_predivide_factor": {"gt": 0}, ".steps_per_print": {"gt": 0},
          "aio.block_size": {"gt": 0}, "aio.queue_depth": {"gt": 0}, "aio.intra_op_parallelism": {"gt": 0},
          "activation_checkpointing.number_checkpoints": {"gt": 0}, "checkpoint.writer.io_buffer_size": {"gt": 0},
          "flops_profiler.profile_step": {"gt": 0}, "data_efficiency.data_sampling.num_workers": {"ge": 0}}
# What validators of single fields add, from the release on that has them.
VALIDATORS = {
    ("fp16", "loss_scale"): ("0.19.0", {"ge": 0, "finite": True, "no_bool": True}),
    ("fp16", "loss_scale_window"): ("0.19.3", {"no_bool": True}),
    ("fp16", "min_loss_scale"): ("0.19.3", {"no_bool": True}),
}
# Refused by the engine, after the config has been read.
REFUSED_BY_ENGINE = {"data_types.grad_accum_dtype", "data_types.param_dtype"}
# What a release refuses on a CPU only, or only because of the rest of the config, is no property of the key.
NOT_REFUSED = {"aio.use_gds": "bifsald", ".train_batch_size": "nbif", ".train_micro_batch_size_per_gpu": "nbif",
               ".gradient_accumulation_steps": "nbif", ".sequence_parallel_size": "bif",
               "data_efficiency.data_sampling.dynamic_batching.min_batch_size": "nsld",
               "data_efficiency.data_sampling.dynamic_batching.max_batch_size": "nsld",
               "data_efficiency.data_sampling.dynamic_batching.max_tokens": "nsald"}
# Kinds of which a key takes some values and not others, each checked by a rule of its own (or by VALUES).
CHECKED = {".train_batch_size", ".train_micro_batch_size_per_gpu", ".gradient_accumulation_steps",
           ".sequence_parallel_size", "checkpoint.parallel_write.pipeline_stage",
           "torch_autocast.lower_precision_safe_modules", "data_types.keep_in_fp32_modules"} | set(VALUES)
# Sections whose keys the engine passes on.
OPEN = {"data_efficiency.data_routing.random_ltd", "data_efficiency.data_sampling.curriculum_learning",
        "optimizer.params", "scheduler.params"}
# Read at run time by key, from a dict that takes whatever is there.
PIPELINE = {"stages": {"type": "any", "default": "auto"}, "partition": {"type": "str", "default": "best"},
            "seed_layers": {"type": "bool", "default": False},
            "activation_checkpoint_interval": {"type": "int", "default": 0},
            "pipe_partitioned": {"type": "bool", "default": True},
            "grad_partitioned": {"type": "bool", "default": True}}
# Read by the integrations around DeepSpeed, which passes them by.
ELSEWHERE = {"inference": {"type": "open"}, "msamp": {"type": "open"}}
# Words that people write for a key.
SYNONYMS = {
    "lr_scheduler": "scheduler", "learning_rate_scheduler": "scheduler", "optim": "optimizer",
    "zero": "zero_optimization", "zero_stage": "stage", "half": "fp16", "float16": "fp16", "mixed_precision": "fp16",
    "grad_clip": "gradient_clipping", "clip_grad": "gradient_clipping", "clip_grad_norm": "gradient_clipping",
    "gradient_clip": "gradient_clipping", "max_grad_norm": "gradient_clipping",
    "gradient_clip_val": "gradient_clipping",
    "batch_size": "train_batch_size", "global_batch_size": "train_batch_size",
    "micro_batch_size": "train_micro_batch_size_per_gpu", "train_micro_batch_size": "train_micro_batch_size_per_gpu",
    "per_device_train_batch_size": "train_micro_batch_size_per_gpu",
    "micro_batch_size_per_gpu": "train_micro_batch_size_per_gpu",
    "grad_accum_steps": "gradient_accumulation_steps", "accumulation_steps": "gradient_accumulation_steps",
    "grad_acc_steps": "gradient_accumulation_steps", "accumulate_grad_batches": "gradient_accumulation_steps",
    "learning_rate": "lr", "wd": "weight_decay", "epsilon": "eps", "adam_epsilon": "eps",
    "warmup_steps": "warmup_num_steps", "num_warmup_steps": "warmup_num_steps", "total_steps": "total_num_steps",
    "num_training_steps": "total_num_steps", "max_steps": "total_num_steps",
    "max_lr": "warmup_max_lr", "min_lr": "warmup_min_lr",
    "offload_optim": "offload_optimizer", "offload_params": "offload_param", "offload_parameters": "offload_param",
    "optimizer_offload": "offload_optimizer", "param_offload": "offload_param",
    "gradient_checkpointing": "activation_checkpointing", "data_type": "communication_data_type",
    "logging_steps": "steps_per_print", "log_interval": "steps_per_print",
    "nvme": "nvme_path", "name": "type",
}


def key_type(path, key, entry, sections):
    below = f"{path}.{key}" if path else key
    if below in sections:
        return "section"
    if key in TYPES.get(path, {}):
        return TYPES[path][key]
    default = entry.get("default")
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if isinstance(default, kind):
            return name
    return None


def of_release(known, version):
    """{section: {"kind", "keys"}} of one release."""
    models, loose = known["models"], dict(known["loose"])
    sections = {path: {"kind": "strict", "keys": dict(fields)} for path, fields in models.items()}
    for section in sections.values():
        key_of = {entry["name"]: key for key, entry in section["keys"].items() if "name" in entry}
        for entry in section["keys"].values():
            if entry.get("new") in key_of:
                entry["new"] = key_of[entry["new"]]
    sections["bfloat16"] = sections["bf16"]
    for entry in sections["zero_optimization.leaf_module"]["keys"].values():
        entry["type"] += "|str"  # its validator makes a list of one
    for (path, key), (since, extra) in VALIDATORS.items():
        if releases.VERSIONS.index(version) >= releases.VERSIONS.index(since):
            sections[path]["keys"][key] = {**sections[path]["keys"][key], **extra}
    sections["pipeline"] = {"kind": "loose", "keys": {key: dict(entry) for key, entry in PIPELINE.items()}}
    for path in loose:
        sections.setdefault(path, {"kind": "open" if path in OPEN else "loose", "keys": {}})
    for path, entries in loose.items():
        for key, entry in entries.items():
            if path in ("optimizer.params", "scheduler.params"):
                continue  # by type: "optimizers", "schedulers"
            name = f"{path}.{key}"
            removed = known["removed"].get(path, {}).get(key)
            if removed:
                sections[path]["keys"][key] = {"type": "removed", "message": removed}
                continue
            out = {}
            kind = key_type(path, key, entry, sections)
            if kind is None:
                # Sections of features that later releases removed, passed on as they are.
                if path == "" and all(how in ("always", "true", "false", "sometimes") for how in entry["refuses"]):
                    kind = "open"
                else:
                    raise SystemExit(f"no type for {name}: give it one in TYPES")
            out["type"] = kind
            if "default" in entry:
                out["default"] = entry["default"]
            if kind in ("section", "open"):
                entry["refuses"] = {how: kinds.replace("d", "") for how, kinds in entry["refuses"].items()}
            for how, kinds in entry["refuses"].items():
                kinds = "".join(k for k in kinds if k not in NOT_REFUSED.get(name, ""))
                if kinds and how == "sometimes":
                    if kind not in ("section", "open") and name not in CHECKED:
                        raise SystemExit(f"{name} takes some of {kinds} only: give it a rule and put it into CHECKED")
                    if "s" in kinds:
                        out["refuses_values"] = True
                elif kinds:
                    out["refuses" if how == "always" else f"refuses_{how}"] = kinds
            if "default" not in entry and kind not in ("section", "open") and "n" not in out.get("refuses", ""):
                out["null"] = True
            if name in VALUES:
                out["values"], any_case = VALUES[name]
                if any_case:
                    out["any_case"] = True
                if "s" in out.get("refuses", ""):
                    out["refuses_values"] = True
            if name in REFUSED_BY_ENGINE:
                out["refuses"], out["refuses_values"] = "bifald", True
            out.update(RANGES.get(name, {}))
            if entry.get("default") == "auto":
                out["auto"] = True
            sections[path]["keys"][key] = out
    for path, removed in known["removed"].items():
        for key, message in removed.items():
            sections[path]["keys"][key] = {"type": "removed", "message": message}
    for key, entry in sections["zero_optimization.zenflow"]["keys"].items():
        if entry.get("default") == "auto":
            entry["auto"] = True
    sections["pipeline"]["keys"]["stages"]["auto"] = True
    sections[""]["keys"].update({key: dict(entry) for key, entry in ELSEWHERE.items()})
    return sections


def constructors(known, what):
    """Sections of the parameters of optimizers or schedulers; their types are those of the defaults."""
    out = {}
    for name, parameters in known[what].items():
        keys = {}
        for key, entry in (parameters or {}).items():
            entry = dict(entry)
            default = entry.get("default")
            entry["type"] = {bool: "bool", int: "float", float: "float", str: "str"}.get(type(default), "any")
            keys[key] = entry
        out[name] = {"kind": "open" if parameters is None else "strict", "keys": keys}
    return out


def merge(by_version):
    """One table from one a release: every key has its variants, each with the releases it is true of."""
    out = {}
    last = len(by_version) - 1
    for index, sections in enumerate(by_version):
        for path, section in sections.items():
            merged = out.setdefault(path, {"kind": section["kind"], "keys": {}})
            for key, entry in section["keys"].items():
                variants = merged["keys"].setdefault(key, [])
                if variants and variants[-1]["entry"] == entry and variants[-1]["to"] == index - 1:
                    variants[-1]["to"] = index
                else:
                    variants.append({"from": index, "to": index, "entry": entry})
    for section in out.values():
        for key, variants in section["keys"].items():
            # Some of what was removed had been read only with other keys around it.
            if variants[0]["entry"]["type"] == "removed" and variants[0]["from"] > 0:
                variants.insert(0, {"from": 0, "to": variants[0]["from"] - 1, "entry": {"type": "open"}})
            plain = []
            for variant in variants:
                entry = dict(variant["entry"])
                if variant["from"] > 0:
                    entry["from"] = releases.VERSIONS[variant["from"]]
                if variant["to"] < last:
                    entry["to"] = releases.VERSIONS[variant["to"]]
                plain.append(entry)
            section["keys"][key] = plain
    return out


def write(table, file):
    """One line a key: a difference of releases is then a difference of lines."""
    dump = lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    parts = [f'"made_by":{dump(table["made_by"])}', f'"versions":{dump(table["versions"])}',
             f'"synonyms":{dump(table["synonyms"])}']
    for name in ("sections", "optimizers", "schedulers"):
        sections = []
        for path, section in sorted(table[name].items()):
            lines = ",\n".join(f"{dump(key)}:{dump(variants)}" for key, variants in sorted(section["keys"].items()))
            body = f"\n{lines}" if lines else ""
            sections.append(f'{dump(path)}:{{"kind":{dump(section["kind"])},"keys":{{{body}}}}}')
        parts.append(f'"{name}":{{\n' + ",\n".join(sections) + "}")
    file.write("{" + ",\n".join(parts) + "}\n")


def make(known: list) -> dict:
    """The table, of the keys that each release knows."""
    return {"made_by": "tests/oracle/make_deepspeed_keys.py", "versions": list(releases.VERSIONS),
             "synonyms": SYNONYMS, "sections": merge([of_release(k, v) for k, v in zip(known, releases.VERSIONS)]),
             "optimizers": merge([constructors(k, "optimizers") for k in known]),
             "schedulers": merge([constructors(k, "schedulers") for k in known])}


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    table = make(releases.keys(Path(sys.argv[1])))
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        write(table, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
