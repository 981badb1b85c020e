"""One rank of pretrained_faults_oracle_test: makes the calls of a case one after the other, and writes what came of each.

    pretrained_faults_rank.py CASE OUT

CASE is a file of JSON, the same for all ranks: {"calls": [call, ...], "at": {RANK: {POINT: ACTION}}}. A call has `call`
("from_pretrained", "load_into" or "attach") and its arguments; `only`: {RANK: those that are others there}. POINT is "start"
(before the first call), "init" (the model is being made), or "attach" (the load is ready); ACTION "raise", "kill", "take" (the
shard, first) or "wait" (tells by OUT/RANK.waits that it does, until there is OUT/go). A case may have "lease", the seconds of that
of its jobs.
OUT/RANK.CALL.json has the exception's type and text, the seconds, and what a call gave that raised nothing.
"""

import gc
import json
import logging
import os
import pathlib
import signal
import sys
import time

import torch
import transformers
import zerocast
from zerocast import _job, _run_load

RANK = int(os.environ.get("RANK", "0"))


def act(case, point, take=None):
    action = case.get("at", {}).get(str(RANK), {}).get(point)
    if action == "raise":
        raise ValueError(f"a fault of rank {RANK}")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "take":
        take()
    if action == "wait":
        out = pathlib.Path(case["out"])
        (out / f"{RANK}.waits").touch()
        while not (out / "go").exists():
            time.sleep(0.02)


def hook_attach(case):
    own = _run_load.attach

    def attach(*args, **keywords):
        act(case, "attach", lambda: own(*args, **keywords))
        return own(*args, **keywords)

    _run_load.attach = attach


def model_class(case, call):
    base = getattr(transformers, call.get("class", "MixtralForCausalLM"))
    if "config_of" not in call and "at" not in case:
        return base

    class Faulty(base):
        def __init__(self, config):
            changed = call.get("config_of", {}).get(str(RANK))
            for name, value in (changed or {}).items():
                setattr(config, name, value)
            super().__init__(config)
            act(case, "init")

    Faulty.__name__ = base.__name__
    return Faulty


def gathered(model):
    """{name: [shape, sum]} of the parameters, whole."""
    made = {}
    for name, param in model.named_parameters():
        if hasattr(param, "ds_id"):
            import deepspeed
            with deepspeed.zero.GatheredParameters([param]):
                made[name] = [list(param.shape), float(param.data.double().sum())]
        else:
            made[name] = [list(param.shape), float(param.data.double().sum())]
    return made


def known(info):
    """A loading info as JSON, for comparing."""
    def plain(value):
        return str(tuple(tuple(part) if isinstance(part, tuple) else part for part in value)) \
            if isinstance(value, tuple) else str(value)
    return {name: sorted(map(plain, found)) for name, found in info.items()}


def from_pretrained(case, call):
    torch.manual_seed(7)  # what is missing is initialised by it
    cls = None if call.get("class", "") is None else model_class(case, call)
    made = zerocast.from_pretrained(cls, call["checkpoint"], call.get("config"), server=call.get("server"),
                                    timeout=call.get("timeout", 30.0), **call.get("keywords", {}))
    model, info = made if isinstance(made, tuple) else (made, {})
    return {"parameters": gathered(model) if call.get("gather") else None,
            "info": known(info)}


def load_into(case, call):
    import deepspeed
    config = call.get("config")
    cls = model_class(case, call)
    own = cls.config_class.from_pretrained(call["checkpoint"])
    if config:
        with deepspeed.zero.Init(config_dict_or_path=config):
            model = cls(own)
    else:
        model = cls(own)
    given = call.get("config_given", config)
    info = zerocast.load_into(model, call["checkpoint"], given, server=call.get("server"),
                              timeout=call.get("timeout", 30.0), **call.get("keywords", {}))
    return {"parameters": gathered(model), "info": known(info)}


def attach(_case, call):
    shard = zerocast.attach(call["load"], call.get("rank", RANK), token=call["token"], socket=call["socket"],
                            timeout=call.get("timeout", 30.0), **call.get("keywords", {}))
    return {"world_size": shard.world_size}


CALLS = {"from_pretrained": from_pretrained, "load_into": load_into, "attach": attach}


def one(case, call, file):
    start = time.monotonic()
    told = {"type": None}
    try:
        told["value"] = CALLS[call["call"]](case, call)
    except BaseException as error:  # noqa: B902 (the test looks at it)
        told = {"type": type(error).__name__, "text": str(error), "reason": getattr(error, "reason", None),
                "rank": getattr(error, "rank", None), "cause": type(error.__cause__).__name__}
        raise
    finally:
        told["seconds"] = time.monotonic() - start
        file.with_suffix(".part").write_text(json.dumps(told), encoding="utf-8")
        file.with_suffix(".part").rename(file)


def of_rank(call):
    """The call as this rank makes it: `only` has {RANK: what is another}."""
    return {**call, **call.get("only", {}).get(str(RANK), {})}


def main(case_file, out):
    case = json.loads(pathlib.Path(case_file).read_text(encoding="utf-8"))
    if case.get("log"):
        logging.basicConfig(level=case["log"], format="%(name)s %(levelname)s %(message)s")
    case["out"] = out
    _job.LEASE_SECONDS = case.get("lease", _job.LEASE_SECONDS)
    hook_attach(case)
    act(case, "start")
    for number, call in enumerate(map(of_rank, case["calls"])):
        file = pathlib.Path(out, f"{RANK}.{number}.json")
        if number == len(case["calls"]) - 1:
            one(case, call, file)
            continue
        try:
            one(case, call, file)
        except Exception as error:
            print(f"call {number}: {error}", file=sys.stderr)
        gc.collect()


if __name__ == "__main__":
    main(*sys.argv[1:])
