#!/usr/bin/env python3
"""Records what Transformers' integration does with random DeepSpeed configs.

    python3 -m venv venv
    venv/bin/pip install torch transformers==5.23.0 accelerate==1.15.0 deepspeed==0.19.8
    venv/bin/python tests/oracle/make_config_cases.py --count 3000 --seed 7 --out cases.jsonl.gz
    venv/bin/python tests/oracle/make_config_cases.py --check tests/data/config/config.jsonl.gz

Each line is a case as in tests/data/config/*.jsonl.gz: a config (ds_config, or its text in
ds_config_text or ds_config_base64), training arguments and a model config, made from the seed, and
in `expect` what the real HfTrainerDeepSpeedConfig and deepspeed_init did with them.  The Trainer
around them is a stand-in that notes the calls.  config_golden_test reads one more such file where
ZC_CONFIG_CASES names it (an absolute path).

The files config-made*.jsonl.gz hold the cases named in config-made*.ids, of seed 7 and of seed 51:
    make_config_cases.py --seed 7 --only tests/data/config/config-made.ids --out ...
Messages of the interpreter itself are those of Python 3.11.

--check runs the real code on the cases of a file and compares with what the file expects: it tells
whether this script (and the installed release) says the same as who made the file.

With transformers==5.1.0 installed the cases say "dialect": "5.1.0".
"""

import argparse
import base64
import copy
import gzip
import json
import logging
import pathlib
import random
import types

import deepspeed
import transformers
from transformers.integrations import deepspeed as integration
from transformers.training_args import TrainingArguments

QUERY_KEYS = [
    "zero_optimization.stage", "fp16.enabled", "bf16.enabled", "optimizer.params.lr", "nope.nope",
    "train_batch_size",
]

# ---- What the real code does ---------------------------------------------------------------------


class Arguments(types.SimpleNamespace):
    get_warmup_steps = TrainingArguments.get_warmup_steps

    def get_process_log_level(self):
        return logging.WARNING


def namespace(value):
    """A model's config.json as the integration meets it: attributes, also of sub-configs."""
    if isinstance(value, dict):
        return types.SimpleNamespace(**{
            k: namespace(v) if k.endswith("_config") else v for k, v in value.items()
        })
    return value


def queries(config):
    answers = {"is_zero2": config.is_zero2(), "is_zero3": config.is_zero3(),
               "is_offload": config.is_offload()}
    for name in ("get_value", "is_true", "is_false", "is_auto"):
        answers[name] = {key: getattr(config, name)(key) for key in QUERY_KEYS}
    return copy.deepcopy(answers)


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def expect(case, arguments=None, model_config=None):
    """The `expect` of a case; of its own arguments and config of the model unless others are given."""
    out = {}
    source = next(case[k] for k in ("ds_config", "ds_config_text", "ds_config_base64") if k in case)
    arguments = arguments or Arguments(**case["args"])
    calls = []
    model = types.SimpleNamespace(parameters=lambda: iter(()))
    if model_config is not None or case["model_config"] is not None:
        model.config = model_config or namespace(case["model_config"])

    def tp_model_init(model, tp_size, dtype, config):
        calls.append(f"tp_model_init({tp_size}, {str(dtype).removeprefix('torch.')})")
        return model

    def create_optimizer():
        calls.append("optimizer")
        return object()

    deepspeed.tp_model_init = tp_model_init
    log = Log()
    integration.logger.addHandler(log)
    integration.logger.setLevel(logging.INFO)
    stage = "parse"
    try:
        config = integration.HfTrainerDeepSpeedConfig(source)
        stage = "process"
        config.trainer_config_process(arguments, case["auto_find_batch_size"])
        out["queries_after_process"] = queries(config)
        out["dtype"] = str(config.dtype()).removeprefix("torch.")
        stage = "init"
        plugin = types.SimpleNamespace(hf_ds_config=config)
        trainer = types.SimpleNamespace(
            model=model, args=arguments, create_optimizer=create_optimizer,
            accelerator=types.SimpleNamespace(state=types.SimpleNamespace(deepspeed_plugin=plugin)))
        optimizer, scheduler = integration.deepspeed_init(
            trainer, case["num_training_steps"], case["inference"])
    except Exception as error:  # whatever the integration raises is the answer
        out["error"] = {"stage": stage, "type": type(error).__name__, "message": str(error)}
        return out
    finally:
        integration.logger.removeHandler(log)
    name = type(optimizer).__name__
    out["optimizer"] = None if optimizer is None else name if name == "DummyOptim" else "trainer"
    out["lr_scheduler"] = None if scheduler is None else type(scheduler).__name__
    out["lr_scheduler_from_trainer"] = (
        getattr(scheduler, "lr_scheduler_callable", None) is not None)
    out["calls"] = calls
    out["log"] = log.lines
    out["resolved"] = config.config
    out["queries"] = queries(config)
    return out


# ---- Random cases ----------------------------------------------------------------------------

LEARNING_RATES = [1e-5, 2.5e-5, 5e-5, 3e-4, 1e-3, 0.1, 1.0]
PATHS = [
    "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size",
    "gradient_clipping", "optimizer", "optimizer.type", "optimizer.params", "optimizer.params.lr",
    "optimizer.params.betas", "optimizer.params.eps", "optimizer.params.weight_decay", "scheduler",
    "scheduler.params", "scheduler.params.warmup_min_lr", "scheduler.params.warmup_max_lr",
    "scheduler.params.warmup_num_steps", "scheduler.params.total_num_steps", "checkpoint",
    "checkpoint.use_node_local_storage", "fp16", "fp16.enabled", "bf16", "bf16.enabled",
    "zero_optimization", "zero_optimization.stage", "zero_optimization.reduce_bucket_size",
    "zero_optimization.stage3_prefetch_bucket_size",
    "zero_optimization.stage3_param_persistence_threshold", "zero_optimization.offload_optimizer",
    "zero_optimization.offload_optimizer.device", "zero_optimization.offload_param",
    "zero_optimization.offload_param.device", "tensor_parallel", "tensor_parallel.autotp_size",
    "lr_scheduler", "zero_allow_untested_optimizer", "steps_per_print", "a.b", "weird key.\u00e9",
]
ODD = [
    None, True, False, 0, 1, 2, 3, -1, 7, 0.0, -0.0, 1.0, 2.0, 3.0, 0.5, 1e-5, 5e8, 1e16, 1e22,
    1.5e300, float("inf"), float("-inf"), float("nan"), 2**63, 2**64, -(2**63) - 1, 10**30,
    10**320, "", "auto", "auto ", "AUTO", "3", "1e-5", "true", "cpu", "nvme", "none", "it's",
    'both "\'', "tab\tnew\nline\\", "\u00e9\u6f22\u2028\x7f\U0001f600\u200b\u00a0\u00ad", [],
    [0.9, 0.999],
    [1], ["auto"], [None, True], [[1, [2.0]], {"a": "b'"}], {}, {"a": 1}, {"enabled": "auto"},
    {"auto": "auto"}, {"device": "cpu"}, {"x": [1, None, True, "q'uote", 5e-5]}, {"": {"": None}},
]
SIZES = [8, 64, 333, 768, 1000, 1024, 4096, 7168, 12288, 16384, 32768, 100003]


def plain_config(rng, args, steps):
    auto_or = lambda *values: "auto" if rng.random() < 0.6 else rng.choice(values)
    sections = {
        "zero_optimization": lambda: (
            rng.choice([None, zero(rng)]) if rng.random() < 0.1 else zero(rng)),
        "fp16": lambda: {"enabled": auto_or(True, False, args["fp16"], 0, 1, "true"),
                         "loss_scale": 0, "initial_scale_power": 16},
        "bf16": lambda: {"enabled": auto_or(True, False, args["bf16"], 0, 1, "true")},
        "train_micro_batch_size_per_gpu":
            lambda: auto_or(args["per_device_train_batch_size"], 4, 4.0, "4"),
        "gradient_accumulation_steps":
            lambda: auto_or(args["gradient_accumulation_steps"], 1, 2, None),
        "train_batch_size": lambda: auto_or(batch(args), batch(args), 17),
        "gradient_clipping": lambda: auto_or(args["max_grad_norm"], 1, 1.0, 0.0, True, 0.5),
        "optimizer": lambda: {
            "type": rng.choice(["AdamW", "Adam", "Lamb"]),
            "params": subset(rng, {
                "lr": auto_or(args["learning_rate"], 1e-5, "5e-5", 1e16),
                "betas": auto_or([args["adam_beta1"], args["adam_beta2"]], [0.9, 0.999], [1, 0]),
                "eps": auto_or(args["adam_epsilon"], 1e-8, 1e-6),
                "weight_decay": auto_or(args["weight_decay"], 0, 0.01)})},
        "scheduler": lambda: {
            "type": rng.choice(["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]),
            "params": subset(rng, {
                "warmup_min_lr": auto_or(0, 0.25),
                "warmup_max_lr": auto_or(args["learning_rate"], 7),
                "warmup_num_steps": auto_or(100, args["warmup_steps"], 0.25),
                "total_num_steps": auto_or(steps, float(steps), 1000)})},
        "tensor_parallel": lambda: {"autotp_size": rng.choice([0, 1, 2, 4])},
        "checkpoint": lambda: {"tag_validation": "Warn"},
        "lr_scheduler": lambda: {"type": "x"},
        "wall_clock_breakdown": lambda: False,
        "steps_per_print": lambda: rng.choice([1e5, 2000]),
        "comment": lambda: "na\u00efve \u2014 \u6f22\u5b57",
    }
    names = list(sections)
    rng.shuffle(names)
    return {name: sections[name]() for name in names if rng.random() < 0.55}


def batch(args):
    return (args["world_size"] * args["per_device_train_batch_size"] *
            args["gradient_accumulation_steps"])


def subset(rng, members):
    return {k: v for k, v in members.items() if rng.random() < 0.8}


def zero(rng):
    size = lambda: rng.choice(["auto", "auto", 500000000, 5e8, 1e6])
    return subset(rng, {
        "stage": rng.choice([0, 1, 2, 2, 3, 3, 3, 3, 3.0, True, "3", None]),
        "reduce_bucket_size": size(), "stage3_prefetch_bucket_size": size(),
        "stage3_param_persistence_threshold": size(),
        "overlap_comm": rng.choice([True, False]),
        "offload_optimizer": {"device": rng.choice(["none", "cpu", "nvme"]), "pin_memory": True},
        "offload_param": {"device": rng.choice(["none", "cpu", "nvme"]), "pin_memory": True}})


def plain_arguments(rng):
    return {
        "world_size": rng.choice([1, 2, 4, 8, 16, 64, 1024]),
        "per_device_train_batch_size": rng.choice([1, 2, 3, 4, 8, 16]),
        "gradient_accumulation_steps": rng.choice([1, 2, 4, 7, 16]),
        "max_grad_norm": rng.choice([0.0, 0.3, 1, 1.0, 5.0]),
        "learning_rate": rng.choice(LEARNING_RATES),
        "adam_beta1": rng.choice([0.8, 0.9, 0.95]), "adam_beta2": rng.choice([0.95, 0.98, 0.999]),
        "adam_epsilon": rng.choice([1e-6, 1e-7, 1e-8, 1e-12]),
        "weight_decay": rng.choice([0, 0.0, 0.01, 0.1, 3e-7]),
        "warmup_steps": rng.choice([0, 0.0, 0.03, 0.07, 0.1, 0.5, 1, 1.5, 2.7, 10, 100, 500]),
        "save_on_each_node": rng.random() < 0.3,
        "fp16": rng.random() < 0.3, "fp16_full_eval": rng.random() < 0.1,
        "bf16": rng.random() < 0.4, "bf16_full_eval": rng.random() < 0.1}


def odd_arguments(rng, args):
    numbers = [0, -1, 1, True, False, 2.0, 0.5, 1e16, 1e400, 3.7, 2**70, -0.0, 1e-7, 1e-320]
    for name in rng.sample([n for n in args if n != "world_size"], rng.randint(1, 4)):
        args[name] = rng.choice(numbers)
    if rng.random() < 0.2:
        args["max_grad_norm"] = None
    if rng.random() < 0.2:
        args["warmup_steps"] = rng.choice(
            [float("nan"), float("inf"), -5, -0.3, 0.999, 1e17, 1 / 3])


def plain_model(rng):
    h = rng.choice(SIZES)
    return rng.choice([
        None, {"hidden_size": h}, {"hidden_size": h}, {"d_model": h},
        {"hidden_sizes": [h, 2 * h, h + 1]}, {"text_config": {"hidden_size": h}},
        {"text_config": {"hidden_sizes": [h, 3 * h]}},
        {"hidden_size": h, "text_config": {"hidden_size": 2 * h}},
        {"text_config": {"d_model": h}, "vision_config": {"hidden_size": h}}])


def odd_model(rng):
    value = lambda: rng.choice([
        None, True, 0, -8, 64.0, 64.5, 1e200, float("inf"), float("nan"), 2**40, 10**200, 10**310,
        "64", "", [], [1], {}, 8])
    values = lambda: rng.choice([
        [], [1, 2.5, True], [2**53, 2.0**53, 2**53 + 1], [1, None], [None], ["a", "b"], "hidden",
        "", {"b": 1, "a": 2}, {}, None, 5, True, 2.5, [[1, 2], [1, 3]], [[], 1], [float("nan"), 1],
        [1, float("nan"), 2], [{}, {}], [8, 64], [True, 1, 1.0], [1.0, 1]])
    config = {}
    for name, make in [("hidden_size", value), ("hidden_sizes", values)]:
        if rng.random() < 0.5:
            config[name] = make()
    if rng.random() < 0.6:
        config["text_config"] = rng.choice([
            None, 5, "x", [], {}, {"hidden_size": value()}, {"hidden_sizes": values()},
            {"hidden_sizes": values(), "hidden_size": value()}])
    return config


def mutate(rng, config):
    for _ in range(rng.randint(1, 3)):
        names = rng.choice(PATHS).split(".")
        node = config
        for name in names[:-1]:
            if not isinstance(node.get(name), dict):
                node[name] = {}
            node = node[name]
        if rng.random() < 0.15:
            node.pop(names[-1], None)
        else:
            node[names[-1]] = copy.deepcopy(rng.choice(ODD))


def spell(rng, value):
    """`value` as JSON text, spelled in a random way."""
    space = lambda: rng.choice(["", "", "", " ", "\n", "\t", "\r\n  "])
    if isinstance(value, dict):
        members = [(k, v) for k, v in value.items()]
        if members and rng.random() < 0.15:  # a duplicate
            members.insert(rng.randrange(len(members) + 1),
                           (rng.choice(members)[0], rng.choice(ODD)))
        text = ",".join(f"{space()}{spell(rng, k)}{space()}:{space()}{spell(rng, v)}{space()}"
                        for k, v in members)
        return "{" + (text or space()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{space()}{spell(rng, v)}{space()}" for v in value) + "]"
    if isinstance(value, float) and abs(value) not in (0.0, float("inf")) and value == value:
        return rng.choice([repr(value), f"{value:.17e}", f"{value:.16E}", f"{value:.20g}"])
    if isinstance(value, float) and value == float("inf"):
        return rng.choice(["Infinity", "1e400", "9E+999"])
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def damage(rng, text):
    """`text` with a little of it removed, doubled or replaced."""
    at = rng.randrange(len(text) + 1)
    return rng.choice([
        lambda: text[:at], lambda: text[:at] + text[at + 1:],
        lambda: text + rng.choice(["x", ",", "}", " 1"]),
        lambda: text[:at] + rng.choice(
            list(',:"{}[]0-+.eE\\/nNtIa \x00\x01\t\u00e9\ufeff')) + text[at:],
        lambda: rng.choice(["\ufeff", "[", "-", "01"]) + text,
        lambda: text.replace("true", "True").replace('"', "'"),
        lambda: rng.choice(["NaN", "-Infinity", "5", "1.5", "true", '"auto"', '"{}"', "[{}]", "[1",
                            " ", "\t{}\n", "{}\x00", "{\"a\": -}", "{\"a\": 1.}", "{\"a\": .5}",
                            "{\"a\": 1e}",
                            "{\"a\": 0x10}", "{\"a\": 00}", "{\"a\": -01}", "{\"a\": 1e5.5}",
                            "{\"a\": \"\\x41\"}", "{\"a\": \"\\u12g4\"}", "{a: 1}", "{\"a\": 1,}"]),
    ])()


def encode(rng, text):
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        data = data[:-1] + bytes([rng.randrange(256)])
    code = rng.choice([base64.urlsafe_b64encode, base64.b64encode])(data).decode()
    at = rng.randrange(len(code) + 1)
    return rng.choice([
        lambda: code, lambda: code, lambda: code, lambda: code[:at] + "\n" + code[at:],
        lambda: code.rstrip("="), lambda: code + "==", lambda: code[:at] + "=" + code[at:],
        lambda: code[:at] + "!" + code[at:], lambda: code[:at], lambda: code + "AAAA",
        lambda: code + "\u00e9"])()


KINDS = ["plain", "mutated", "text", "damaged-text", "base64", "model", "arguments"]


def make_case(rng, name):
    kind = rng.choices(KINDS, weights=[3, 5, 3, 2, 2, 3, 2])[0]
    args = plain_arguments(rng)
    steps = rng.choice([0, 1, 10, 1000, 12345, 1000000])
    config = plain_config(rng, args, steps)
    case = {"id": name, "kind": kind}
    model = plain_model(rng)
    if kind == "model":
        model = odd_model(rng)
        zero_section = config.get("zero_optimization") or {}
        zero_section.update(stage=rng.choice([2, 3, 3]), reduce_bucket_size="auto",
                            stage3_prefetch_bucket_size="auto")
        config["zero_optimization"] = zero_section
    if kind == "arguments":
        odd_arguments(rng, args)
    if kind != "plain" and rng.random() < (1.0 if kind == "mutated" else 0.3):
        mutate(rng, config)
    if kind in ("text", "damaged-text", "base64"):
        text = spell(rng, config)
        if kind == "damaged-text":
            text = damage(rng, text)
        key = "ds_config_base64" if kind == "base64" else "ds_config_text"
        case[key] = encode(rng, text) if kind == "base64" else text
    elif rng.random() < 0.01:
        case["ds_config"] = rng.choice([[], ["a"], 2.5, None, "{}", "", "auto"])
    else:
        case["ds_config"] = config
    case.update(args=args, auto_find_batch_size=rng.random() < 0.15, model_config=model,
                num_training_steps=steps, inference=rng.random() < 0.15)
    return case


def can_record(case):
    """Whether the case stays within what zerocast reads at all (server/config/README.md)."""
    text = json.dumps(case, ensure_ascii=False)
    return not any("\ud800" <= c <= "\udfff" for c in text)


def dialect():
    return [] if transformers.__version__ == "5.23.0" else [("dialect", transformers.__version__)]


# ---- Command line ----------------------------------------------------------------------------


def read(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file.read().split("\n") if line]


def check(path):
    wrong = 0
    for case in read(path):
        recorded = json.dumps(case.pop("expect"))
        actual = json.dumps(expect(copy.deepcopy(case)))
        if actual != recorded:
            wrong += 1
            print(f"{case['id']}:\n  file {recorded}\n  here {actual}")
    print(f"{wrong} cases differ")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="file with the ids to keep, one a line, in their order")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--check", type=pathlib.Path)
    options = parser.parse_args()
    if options.check:
        return check(options.check)
    only = pathlib.Path(options.only).read_text().split() if options.only else None
    rng = random.Random(options.seed)
    lines = []
    for index in range(options.count):
        case = make_case(rng, f"made-{options.seed}-{index}")
        if only is not None and case["id"] not in only:  # the random sequence goes on
            continue
        case.update(dialect())
        # As a reader of the file will see it: the sources share no objects.
        case = json.loads(json.dumps(case))
        case["expect"] = expect(copy.deepcopy(case))
        if can_record(case):
            lines.append(json.dumps(case))
    if only is not None:
        lines.sort(key=lambda line: only.index(json.loads(line)["id"]))
    # No time in the header: the same seed gives the same bytes.
    with options.out.open("wb") as raw, gzip.GzipFile(
            fileobj=raw, mode="wb", filename="", mtime=0) as file:
        file.write("".join(line + "\n" for line in lines).encode())
    print(f"{len(lines)} cases")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
