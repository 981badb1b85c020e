"""The installed transformers' weight transforms as data: what zerocast.rules and zerocast.spec share."""

from __future__ import annotations

import re
import sys
from types import TracebackType
from typing import Any, Dict, List, Optional, Tuple, Type

# Attributes of the library's operations and the field of a rule that holds each.
_FIELDS = {
    "dim": "dim",
    "dim0": "a",
    "dim1": "b",
    "check_dims": "check_dims",
    "inverse": "inverse",
    "stack_dim": "stack_dim",
    "concat_dim": "concat_dim",
    "num_shards_attribute": "count_attr",
    "subconfig_key": "subconfig",
    "permute_layer_names": "only",
    "in_channels": "in_channels",
    "kernel_size": "kernel",
}
_OPS = {
    "MergeModulelist": "stack",
    "SplitModulelist": "unstack",
    "Concatenate": "cat",
    "Chunk": "chunk",
    "Split": "split_by_target",
    "Transpose": "transpose",
    "Interleave": "interleave",
    "PermuteForRope": "permute_rope",
    "ErnieFuseAndSplitTextVisionExperts": "ernie_fuse_split",
    "ErnieSplitAndDecoupleTextVisionExperts": "ernie_split_decouple",
    "Conv3dToLinear": "conv3d_to_linear",
    "LinearToConv3d": "linear_to_conv3d",
    "Force16BytesAlignment": "align16",
}


class UnknownRelease(RuntimeError):
    """The installed transformers does something that zerocast has no words for."""


def _op(operation: Any) -> Dict[str, Any]:
    name = type(operation).__name__
    if name not in _OPS:
        raise UnknownRelease(f"the operation {name} has no name in a rule table; zerocast must "
                             "learn it before this release's rules can be used")
    rule: Dict[str, Any] = {"op": _OPS[name]}
    for attribute, field in _FIELDS.items():
        value = getattr(operation, attribute, None)
        # What is not given is false or absent.
        if value is None or value is False:
            continue
        rule[field] = list(value) if isinstance(value, tuple) else value
    return rule


def keeps_patterns() -> bool:
    """Whether the release remembers how the patterns of a transform were written."""
    from transformers import core_model_loading
    return hasattr(core_model_loading.WeightRenaming("a", "b"), "_original_source_patterns")


class Recorder:
    """Remembers the patterns that transforms are made with: some releases keep only what they made
    of them. Use as a context around whatever builds transforms."""

    def __init__(self) -> None:
        from transformers import core_model_loading
        self._class: Any = core_model_loading.WeightTransform
        self._written: Dict[int, Tuple[Any, Dict[str, List[str]]]] = {}

    def __enter__(self) -> "Recorder":
        recorder, original = self, self._class.__setattr__

        def remember(transform: Any, name: str, value: Any) -> None:
            if name in ("source_patterns", "target_patterns") and not hasattr(transform, name):
                written = [value] if isinstance(value, str) else list(value)
                # The transform is kept with it, so that its id stays its own.
                recorder._written.setdefault(id(transform), (transform, {}))[1][name] = written
            original(transform, name, value)

        self._original = original
        self._class.__setattr__ = remember
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._class.__setattr__ = self._original

    def patterns(self, transform: Any) -> Tuple[List[str], List[str]]:
        """(sources, targets) as written."""
        own = getattr(transform, "_original_source_patterns", None)
        if own is not None:
            return list(own), list(transform._original_target_patterns)
        processed = (tuple(transform.source_patterns), tuple(transform.target_patterns))
        for made, written in self._written.values():
            # Releases that keep only the processed patterns also hand out copies.
            if (tuple(made.source_patterns), tuple(made.target_patterns)) == processed:
                return written["source_patterns"], written["target_patterns"]
        return list(transform.source_patterns), list(transform.target_patterns)


def rule(transform: Any, recorder: Recorder) -> Dict[str, Any]:
    """One transform as a rule of a rule table."""
    name = type(transform).__name__
    sources, targets = recorder.patterns(transform)

    def short(patterns: List[str]) -> Any:
        return patterns[0] if len(patterns) == 1 else patterns

    if name == "PrefixChange":
        made: Dict[str, Any] = {"kind": "prefix"}
        if transform.prefix_to_add is not None:
            made["add"] = transform.prefix_to_add
        else:
            made["remove"] = transform.prefix_to_remove
        if transform.model_prefix:
            made["under"] = transform.model_prefix
    elif name == "GroupWeightRename":
        made = {"kind": "rename_group", "from": sources, "to": targets}
    elif hasattr(transform, "offset"):
        made = {"kind": "rename_index", "from": short(sources), "to": short(targets),
                "offset": transform.offset}
    elif hasattr(transform, "operations"):
        made = {"kind": "convert", "from": sources, "to": targets,
                "ops": [_op(operation) for operation in transform.operations]}
    elif name == "WeightRenaming":
        made = {"kind": "rename", "from": short(sources), "to": short(targets)}
    else:
        raise UnknownRelease(f"the transform {name} has no name in a rule table")
    if getattr(transform, "force_cpu", False):
        made["force_cpu"] = True
    if getattr(transform, "scope_prefix", None) is not None:
        made["scope_prefix"] = transform.scope_prefix
        made["scope_base"] = transform.base_model_prefix or ""
    return made


# How the two releases that zerocast's matcher knows behave.
SEMANTICS: Dict[str, Dict[str, Any]] = {
    "5.1.0": {"replace": "all_occurrences", "wildcard": [".*.", "\\..*\\."], "boundary": "none",
              "branch_order": "declared", "natural_key": "v1", "reverse": "v1",
              "vlm_class_renames": True},
    "5.23.0": {"replace": "first_occurrence", "wildcard": ["*.", ".*\\."],
               "boundary": "(?!\\w) after [A-Za-z0-9]$", "branch_order": "longest_source_first",
               "natural_key": "v2", "reverse": "v2", "vlm_class_renames": False},
}


def dialect() -> str:
    """Which of SEMANTICS the installed release matches by, found by trying it.

    Raises:
        UnknownRelease: it matches as none of them does.
    """
    from transformers import core_model_loading as loading

    def renamed(source: str, target: str, key: str) -> Any:
        return loading.WeightRenaming(source, target).rename_source_key(key)[0]

    two = loading.WeightRenaming(["x.up", "x.up.w"], ["t"])
    try:
        sorted(["a.0", "a.w"], key=loading.dot_natural_key)
        natural = "v2"
    except TypeError:
        natural = "v1"
    wildcards = [pair for pair in (["*.", ".*\\."], [".*.", "\\..*\\."]) if re.search(
        re.escape("q" + ".e" + pair[1] + "w") if pair[0] == "*." else re.escape("e" + pair[1] + "w"),
        loading.WeightRenaming("q.e*.w" if pair[0] == "*." else "e.*.w", "t").compiled_sources.pattern)]
    found = {
        "replace": "first_occurrence" if renamed("a", "b", "a.a") == "b.a" else "all_occurrences",
        "boundary": SEMANTICS["5.23.0"]["boundary"]
                    if renamed("w", "v", "w_x") == "w_x" else "none",
        "branch_order": "longest_source_first"
                        if two.rename_source_key("x.up.w")[0] == "t" else "declared",
        "natural_key": natural,
    }
    for name, semantics in SEMANTICS.items():
        if all(semantics[key] == value for key, value in found.items()) and \
                semantics["wildcard"] in wildcards:
            return name
    raise UnknownRelease(f"this release matches names as none that zerocast knows: {found}")


def write_text(text: str, path: Optional[str]) -> None:
    """Writes the text to the file, or to stdout where path is empty."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
