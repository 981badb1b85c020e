"""Writes the conversion rules of the installed transformers as a rule table.

    python -m zerocast.rules [--out FILE] [--no-sub-models]

`zerocast load --rules FILE` takes it: a new release of transformers needs no new zerocast. With
sub-models (the default) every class of models is built once without data, to know which models lie
within it: some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import warnings
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from zerocast import _transforms


def _mapping(recorder: _transforms.Recorder) -> Dict[str, List[Any]]:
    """name -> its transforms, in the order of the release."""
    from transformers import conversion_mapping
    with recorder:
        mapping: Dict[str, List[Any]] = conversion_mapping._build_checkpoint_conversion_mapping()
        return mapping


def _class_renames() -> Optional[Dict[str, Dict[str, str]]]:
    """5.1.0: the renames that classes of models carry themselves, for those that load by them."""
    import transformers
    from transformers import conversion_mapping
    parts = getattr(conversion_mapping, "VLMS", None)
    if parts is None:
        return None
    renames = {}
    for cls in _model_classes(transformers):
        own = getattr(cls, "_checkpoint_conversion_mapping", None)
        names = [base.__name__.lower() for base in cls.__mro__[:-1]]
        if own is not None and any(part in name for part in parts for name in names):
            renames[cls.__name__] = dict(own)
    return renames


def _model_classes(transformers: Any) -> Iterator[Any]:
    from transformers.modeling_utils import PreTrainedModel
    seen: Set[Any] = set()
    for name in sorted(dir(transformers)):
        if name.startswith("_"):
            continue
        try:
            cls = getattr(transformers, name)
        except Exception:  # a module that needs a package that is not installed
            continue
        if isinstance(cls, type) and issubclass(cls, PreTrainedModel) and cls not in seen:
            seen.add(cls)
            yield cls


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the library says about default configs is of no use here."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _config_path(root: Any, wanted: Any) -> Optional[str]:
    """The dotted path of a config within another; None where it is not there."""
    queue = [("", root)]
    for path, config in queue:
        if config is wanted:
            return path
        for name in getattr(config, "sub_configs", {}) or {}:
            part = getattr(config, name, None)
            if part is not None and len(queue) < 64:
                queue.append((f"{path}.{name}" if path else name, part))
    return None


def _own(model: Any) -> List[str]:
    """What a model holds beside its base model (all, where it is one): paths of modules and tensors."""
    from transformers.modeling_utils import PreTrainedModel
    own: List[str] = []
    path, part = "", model
    while part is not None:
        name = part.base_model_prefix
        base = getattr(part, name, None) if name else None
        base = base if isinstance(base, PreTrainedModel) else None
        if base is not None or part is model:
            own += [path + held for group in (part._modules, part._parameters, part._buffers)
                    for held, value in group.items() if value is not None and value is not base]
        path, part = f"{path}{name}.", base
    return own


def _within(cls: Any) -> Tuple[str, List[List[str]], List[str]]:
    """The models within a class of models with its default config: its base prefix, what it holds
    beside its base model, and [path, class, type, config] of each."""
    import torch
    from transformers.modeling_utils import PreTrainedModel
    config = cls.config_class()
    with torch.device("meta"):
        model = cls(config)
    modules = []
    for path, module in model.named_modules():
        if path and isinstance(module, PreTrainedModel):
            where = _config_path(model.config, module.config)
            modules.append([path, type(module).__name__, module.config.model_type or "",
                            where or ""])
    return model.base_model_prefix, modules, _own(model)


def sub_models(bound: Set[str]) -> Tuple[Dict[str, Any], Dict[str, str], List[str]]:
    """(sub_models, auto_classes, failed) of a rule table; `bound` holds the names that have rules."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
    auto_classes = {}
    for model_type, names in MODEL_MAPPING_NAMES.items():
        auto_classes[model_type] = names if isinstance(names, str) else names[0]
    models, failed = {}, []
    modules_with_rules = {cls.__module__ for cls in _model_classes(transformers)
                          if cls.__name__ in bound}
    for cls in _model_classes(transformers):
        if cls.config_class is None or cls.__name__.endswith("PreTrainedModel"):
            continue
        # Only a model with configs within its own, or a relative of a class with rules, can have
        # rules below it.
        if not getattr(cls.config_class, "sub_configs", None) and \
                cls.__module__ not in modules_with_rules:
            continue
        try:
            with quiet():
                base, modules, own = _within(cls)
        except Exception as error:  # a class that cannot be built without more is left out
            failed.append(f"{cls.__name__}: {error}".split("\n")[0][:200])
            continue
        # Where nothing within has rules of its own, or could be replaced by what has, there is
        # nothing to say.
        if any(config or name in bound or model_type in bound
               for _, name, model_type, config in modules):
            models[cls.__name__] = {"base": base, "modules": modules, "own": own}
    return models, auto_classes, failed


def export(with_sub_models: bool = True) -> Tuple[Dict[str, Any], List[str]]:
    """(table, failed): the rule table of the installed transformers, as JSON values; and a line for
    each class whose sub-models are left out because it could not be built.

    Raises:
        zerocast._transforms.UnknownRelease: the release is not known.
        ImportError: torch or transformers is not installed.
    """
    import transformers
    recorder = _transforms.Recorder()
    mapping = _mapping(recorder)
    dialect = _transforms.dialect()
    sets: Dict[str, List[Any]] = {}
    by_class: Dict[str, str] = {}
    by_type: Dict[str, str] = {}
    named: Dict[str, str] = {}  # the rules as text -> the set that holds them
    for name, transforms in mapping.items():
        rules = [_transforms.rule(transform, recorder) for transform in transforms]
        key = json.dumps(rules, sort_keys=True)
        if name == "legacy" or key not in named:
            sets[name] = rules
            named.setdefault(key, name)
        if name != "legacy":
            (by_class if name != name.lower() else by_type)[name] = named[key]
    table: Dict[str, Any] = {
        "schema": "weight-rules/1",
        "derived_from": {"project": "huggingface/transformers",
                         "version": transformers.__version__, "license": "Apache-2.0"},
        "semantics": _transforms.SEMANTICS[dialect],
        "rule_sets": sets,
        "bindings": {"by_class": by_class, "by_model_type": by_type, "always_last": ["legacy"]},
    }
    renames = _class_renames()
    if renames is not None:
        table["class_renames"] = {"class_name_substrings": "VLMS list", "map": renames}
    failed: List[str] = []
    if with_sub_models and dialect != "5.1.0":  # that release looks at the whole model alone
        models, auto_classes, failed = sub_models(set(by_class) | set(by_type))
        table["sub_models"] = models
        table["auto_classes"] = auto_classes
    return table, failed


def dump(table: Dict[str, Any]) -> str:
    """The table as text, an entry a line: what changed between two releases can be read."""
    def entries(value: Dict[str, Any]) -> str:
        return ",\n".join(f"{json.dumps(key)}:{json.dumps(item, separators=(',', ':'))}"
                          for key, item in value.items())
    parts = []
    for key, value in table.items():
        if key in ("rule_sets", "sub_models"):
            parts.append(f"{json.dumps(key)}:{{\n{entries(value)}\n}}")
        else:
            parts.append(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}")
    return "{" + ",\n".join(parts) + "}\n"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m zerocast.rules", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE", help="write here (default: stdout)")
    parser.add_argument("--no-sub-models", action="store_true",
                        help="do not build the classes: sub-models' rules then need a model spec")
    arguments = parser.parse_args(argv)
    try:
        table, failed = export(not arguments.no_sub_models)
    except (ImportError, _transforms.UnknownRelease) as error:
        print(f"zerocast.rules: {error}", file=sys.stderr)
        return 1
    for line in failed:
        print(f"zerocast.rules: left out: {line}", file=sys.stderr)
    _transforms.write_text(dump(table), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
