"""Writes the model spec of a checkpoint: what the installed transformers would load it into.

    python -m zerocast.spec CKPT [--class NAME] [--dtype bf16|fp16|fp32] [--out FILE]

The model is built on the meta device: names, shapes and dtypes, no data. `zerocast load
--model-spec FILE` takes it, and missing weights then stop the load. NAME is a class that transformers
exports, or `module:Class` or `module.Class` of any module that Python finds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import re
import sys
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from zerocast import _transforms

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class SpecError(RuntimeError):
    """The checkpoint's model cannot be built; the message says what to do."""


def _find(name: str) -> Any:
    """The class of that name: an export of transformers, or `module:Class` or `module.Class`; None
    where the module has no such thing."""
    import transformers
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    if not module or module.startswith("."):
        return getattr(transformers, name, None)
    return getattr(importlib.import_module(module), attribute, None)


def _config(checkpoint: str, class_name: Optional[str]) -> Any:
    """The checkpoint's config; of a type that only its class knows, such as a part of a model, by
    that class."""
    import transformers
    try:
        return transformers.AutoConfig.from_pretrained(checkpoint)
    except ValueError:
        values, _ = transformers.PretrainedConfig.get_config_dict(checkpoint)
        name = class_name or next(iter(values.get("architectures") or ()), "")
        cls = _find(name) if name else None
        if cls is None or getattr(cls, "config_class", None) is None:
            raise
        return cls.config_class.from_pretrained(checkpoint)


def _class(config: Any, name: Optional[str]) -> Any:
    import transformers
    if name is None:
        names = getattr(config, "architectures", None) or []
        if not names:
            raise SpecError("config.json names no class in `architectures`; give --class")
        name = names[0]
    cls = _find(name)
    if cls is None:
        raise SpecError(f"transformers {transformers.__version__} has no class {name}; give --class "
                        "(module:Class for one that it does not export), or install the release "
                        "that the checkpoint needs")
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise SpecError(f"{name} is not a class of models (transformers.PreTrainedModel)")
    return cls


def _dtype(config: Any, name: Optional[str]) -> Any:
    import torch
    if name is not None:
        return getattr(torch, _DTYPES[name])
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if dtype is None:
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        dtype = getattr(text, "dtype", None)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.rsplit(".", 1)[-1])
    return dtype if dtype is not None and dtype.is_floating_point else torch.float32


def _set_dtype(config: Any, dtype: Any) -> None:
    """As from_pretrained does before it builds the model."""
    config.dtype = dtype
    for name in getattr(config, "sub_configs", {}) or {}:
        part = getattr(config, name, None)
        if part is not None:
            _set_dtype(part, dtype)


def _build(cls: Any, config: Any, dtype: Any) -> Any:
    """The model on the meta device, as from_pretrained builds it before it loads."""
    _set_dtype(config, dtype)
    known = {"dtype": dtype, "is_quantized": False, "_is_ds_init_called": False,
             "allow_all_kernels": None}
    wanted = inspect.signature(cls.get_init_context).parameters
    contexts = cls.get_init_context(**{name: value for name, value in known.items()
                                       if name in wanted})
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        return cls(config)


def _kept(model: Any, dtype: Any) -> Optional["re.Pattern[str]"]:
    """The patterns of names that stay in float32, as the loader searches them."""
    import torch
    plan = model._get_dtype_plan(dtype) if hasattr(model, "_get_dtype_plan") else {}
    names = [name for name, kept in plan.items() if kept == torch.float32]
    if not names:
        return None
    from transformers.core_model_loading import build_glob_alternation
    patterns: "re.Pattern[str]" = build_glob_alternation(names)[0]
    return patterns


def _transform(transform: Any, recorder: _transforms.Recorder) -> Dict[str, Any]:
    """In the form of an export: the library's class, its patterns as processed and as written."""
    made: Dict[str, Any] = {"class": type(transform).__name__,
            "source_patterns": list(transform.source_patterns),
            "target_patterns": list(transform.target_patterns)}
    rule = _transforms.rule(transform, recorder)
    if hasattr(transform, "operations"):
        made["operations"] = rule["ops"]
    for ours, theirs in (("add", "prefix_to_add"), ("remove", "prefix_to_remove"),
                         ("under", "model_prefix"), ("offset", "offset"),
                         ("scope_prefix", "scope_prefix"), ("scope_base", "base_model_prefix")):
        if ours in rule:
            made[theirs] = rule[ours]
    made["original"], made["original_target"] = recorder.patterns(transform)
    return made


def describe(model: Any, transforms: Iterable[Any], dtype: Any,
             recorder: _transforms.Recorder) -> Dict[str, Any]:
    """The spec of a model that is built but not loaded, as JSON values.

    Args:
        model: its parameters may lie on the meta device, or be ZeRO-3's (ds_shape).
        transforms: what the release would convert the checkpoint by, in order.
        dtype: the model's torch.dtype, which decides what stays in float32.
        recorder: the Recorder that saw the transforms being made.
    """
    import transformers
    kept = _kept(model, dtype)
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})

    def listed(named: Iterable[Tuple[str, Any]]) -> List[Dict[str, Any]]:
        tensors = []
        for name, tensor in named:
            own = "float32" if kept is not None and kept.search(name) else \
                str(tensor.dtype).rsplit(".", 1)[-1]
            tensors.append({"name": name, "shape": list(getattr(tensor, "ds_shape", tensor.shape)),
                            "dtype": own})
        return tensors

    persistent = model.state_dict(keep_vars=True)
    buffers = [(name, buffer) for name, buffer in model.named_buffers(remove_duplicate=False)
               if name in persistent]
    # Nothing is tied yet: both names of a tied weight are listed.
    params = list(model.named_parameters(remove_duplicate=False))
    unexpected = set(model._keys_to_ignore_on_load_unexpected or ())
    names = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in names):
        unexpected.add(r"rotary_emb\.inv_freq")
    dialect = _transforms.dialect()
    if dialect != "5.1.0" and any(name.endswith("position_ids") for name in names):
        unexpected.add(r"(^|\.)position_ids$")
    for patterns in (unexpected, model._keys_to_ignore_on_load_missing or ()):
        for pattern in patterns:
            re.compile(pattern)
    return {
        "architecture": type(model).__name__,
        "model_type": model.config.model_type,
        "dialect": dialect,
        "made_by": f"transformers {transformers.__version__}",
        "base_model_prefix": model.base_model_prefix,
        "tied": tied,
        "transforms": [_transform(transform, recorder) for transform in transforms],
        "params": listed(params),
        "buffers": listed(buffers),
        "keys_to_ignore_on_load_missing": sorted(model._keys_to_ignore_on_load_missing or ()),
        "keys_to_ignore_on_load_unexpected": sorted(unexpected),
    }


def export(checkpoint: str, class_name: Optional[str] = None,
           dtype_name: Optional[str] = None) -> Dict[str, Any]:
    """The model spec of a checkpoint's folder, as JSON values.

    Args:
        checkpoint: a folder with config.json.
        class_name: as --class; None: the first of config.json's architectures.
        dtype_name: "bf16", "fp16" or "fp32"; None: the config's.

    Raises:
        SpecError: the model cannot be built.
        zerocast._transforms.UnknownRelease: the installed transformers is not known.
        ImportError, OSError, ValueError: of transformers.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    _transforms.dialect()  # an unknown release is refused before anything is built
    config = _config(checkpoint, class_name)
    model_type = config.model_type
    cls = _class(config, class_name)
    if cls.config_class is not None and not isinstance(config, cls.config_class):
        # A model of a part of the config, or one whose config the class reads in its own way.
        config = cls.config_class.from_pretrained(checkpoint)
    dtype = _dtype(config, dtype_name)
    recorder = _transforms.Recorder()
    model = _build(cls, config, dtype)
    # Made anew: the release caches its table, and caches it processed.
    with recorder:
        from transformers import conversion_mapping
        conversion_mapping._checkpoint_conversion_mapping_cache = None
        transforms = get_model_conversion_mapping(model)
    # The checkpoint's own, also where the class reads but a part of its config.
    return {**describe(model, transforms, dtype, recorder), "model_type": model_type}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m zerocast.spec", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CKPT", help="a folder with config.json")
    parser.add_argument("--class", dest="class_name", metavar="NAME",
                        help="the model's class, or module:Class (default: the first of config.json)")
    parser.add_argument("--dtype", choices=sorted(_DTYPES), help="default: the config's")
    parser.add_argument("--out", metavar="FILE", help="write here (default: stdout)")
    arguments = parser.parse_args(argv)
    try:
        spec = export(arguments.checkpoint, arguments.class_name, arguments.dtype)
    except (ImportError, OSError, ValueError, SpecError, _transforms.UnknownRelease) as error:
        print(f"zerocast.spec: {arguments.checkpoint}: {error}", file=sys.stderr)
        return 1
    _transforms.write_text(json.dumps(spec, indent=1) + "\n", arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
