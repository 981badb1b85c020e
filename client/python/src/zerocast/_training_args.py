"""What TrainingArguments say of a DeepSpeed config, as early as it can be said."""

from __future__ import annotations

import copy
import weakref
from typing import Any, Dict, Optional

from zerocast._agreement import Ranks
from zerocast._config import arguments_of, resolve_config

# What the integration fills only when there is a model.
_OF_MODEL = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")

# Of a config that the library keeps for its Trainer, the arguments that filled it.
_processed: "weakref.WeakKeyDictionary[Any, weakref.ref[Any]]" = weakref.WeakKeyDictionary()


def remember(config: Any, training_args: Any) -> None:
    """Keeps who filled an HfTrainerDeepSpeedConfig, as long as both live."""
    _processed[config] = weakref.ref(training_args)


def living() -> Any:
    """The TrainingArguments whose DeepSpeed config the library works by now; None where it knows of none,
    or they were made before `remember` was told of them."""
    from transformers.integrations import deepspeed
    reference = deepspeed._hf_deepspeed_config_weak_ref
    config = reference() if reference is not None else None
    found = _processed.get(config) if config is not None else None
    return found() if found is not None else None


def _get(training_args: Any, name: str, default: Any) -> Any:
    if isinstance(training_args, dict):
        return training_args.get(name, default)
    return getattr(training_args, name, default)


def max_steps(training_args: Any) -> Optional[int]:
    """Optimizer steps of the whole training, where the arguments alone say it."""
    steps = _get(training_args, "max_steps", -1)
    return int(steps) if steps is not None and steps > 0 else None


def finds_batch_size(training_args: Any) -> bool:
    """Whether the batch size is searched for, so that the config's need not match."""
    return bool(_get(training_args, "auto_find_batch_size", False))


def as_given(config: Dict[str, Any], training_args: Any) -> Dict[str, Any]:
    """The config that training_args were made with, before they filled it; else `config`. A copy."""
    given = _get(training_args, "deepspeed", None)
    if given is None:
        return copy.deepcopy(config)
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    made: Dict[str, Any] = copy.deepcopy(HfDeepSpeedConfig(given).config)
    return made


def check(ranks: Ranks, config: Dict[str, Any], training_args: Any, server: Optional[str],
          timeout: float) -> None:
    """Raises LoadError, on all ranks, of a config that contradicts the training arguments: with every
    contradiction that can be known before there are model and data. The integration does so when training begins.

    Args:
        ranks: all of them call it.
        config: as it was given, with its "auto".
        training_args: a TrainingArguments, or a dict of its fields.
        server, timeout: as of resolve_config.
    """
    with ranks.step("check the DeepSpeed config"):
        if ranks.rank != 0:
            return
        config = copy.deepcopy(config)
        steps = max_steps(training_args)
        params = (config.get("scheduler") or {}).get("params") or {}
        if steps is None:
            # The library compares these with a number that only the data tell.
            warmup = _get(training_args, "warmup_steps", 0) or 0
            for name in ("total_num_steps", *(("warmup_num_steps",) if 0 < warmup < 1 else ())):
                if name in params:
                    params[name] = "auto"
        zero = config.get("zero_optimization") or {}
        for name in _OF_MODEL:
            if zero.get(name) == "auto":
                del zero[name]
        resolve_config(config, training_args, None, 1 if steps is None else steps, server=server,
                       auto_find_batch_size=finds_batch_size(training_args), timeout=timeout)


def sent(training_args: Any) -> Dict[str, Any]:
    """The arguments that a job's config is resolved with, as JSON values; empty: it goes without."""
    if training_args is None or finds_batch_size(training_args):
        return {}
    return arguments_of(training_args)
