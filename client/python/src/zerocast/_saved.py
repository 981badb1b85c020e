"""What a folder of DeepSpeed's engine holds besides large tensors: counters, schedulers, hyper-parameters, client's
state.

RESUME.md, beside this package's sources, says how they are read.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

from zerocast._errors import LoadError

_MODEL_STATES = re.compile(r"(?:zero_pp_rank_(\d+)_)?mp_rank_00_model_states\.pt")
_OPTIM_STATES = re.compile(r"(?:bf16_)?zero_pp_rank_0_mp_rank_00_?optim_states\.pt")
_BASE, _STAGE3_BASE, _GROUPS = "base_optimizer_state", "optimizer_state_dict", "param_groups"
# What of the optimizer's dict is not by rank.
_GLOBAL = ("loss_scaler", "dynamic_loss_scale", "overflow", "clip_grad", "ds_version")


@dataclass
class SavedOptimizer:
    """An optimizer as it was saved, but for what it has of each element.

    Attributes:
        path: of the file.
        common: what DeepSpeed's optimizer has of itself: "loss_scaler", "dynamic_loss_scale", "overflow", and under
            stages 1 and 2 "clip_grad" and "ds_version"; what an old release did not save is not there.
        groups: the hyper-parameters of each group.
        members: the names of each group's parameters, in no order that means anything.
        steps: by group, what a state has that is not of the elements: "step".
    """

    path: str
    common: Dict[str, Any]
    groups: List[Dict[str, Any]]
    members: List[List[str]]
    steps: List[Dict[str, Any]] = field(default_factory=list)


@dataclass
class Saved:
    """One tag.

    Attributes:
        path: of the model states that were read, which engine.load_checkpoint returns.
        model_states: as DeepSpeed saves it; tensors lie in the file until they are used.
        optimizer: None where it was not asked for, or the engine had none or no ZeRO.
    """

    path: str
    model_states: Dict[str, Any]
    optimizer: Optional[SavedOptimizer]


def find_tag(load_dir: str, tag: Optional[str], is_universal: bool) -> Optional[str]:
    """The tag that is asked for, else what the folder names as its latest; None where it names none."""
    if tag is not None:
        return str(tag)
    names = ("latest", "latest_universal")
    for name in reversed(names) if is_universal else names:
        path = os.path.join(load_dir, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
    return None


def failed(code: str, load_dir: str, why: str, reason: str) -> LoadError:
    """A LoadError in the words of the library's integration."""
    return LoadError(code, f"[deepspeed] failed to resume from checkpoint {load_dir}: {why}", reason)


def read(load_dir: str, tag: str, rank: int, world_size: int, with_optimizer: bool, weights_only: bool) -> Saved:
    """Reads what rank `rank` of `world_size` wants of a tag's folder.

    Of the client's state each rank may have saved its own under stage 3: a rank gets its own where as many ranks
    saved, else rank 0's.

    Raises:
        LoadError: NOT_FOUND, files are missing; DATA_LOSS, one cannot be read; UNIMPLEMENTED, one holds more than
            plain values, and weights_only is set.
    """
    folder = os.path.join(load_dir, tag)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise failed("NOT_FOUND", load_dir, f"open the tag {tag}: {error.strerror}; it has {_tags(load_dir)}",
                     "CHECKPOINT_NOT_FOUND") from error
    by_rank = {int(found[1]) if found[1] else -1: name
               for name in names for found in [_MODEL_STATES.fullmatch(name)] if found}
    if -1 not in by_rank and 0 not in by_rank:
        raise failed("NOT_FOUND", load_dir, f"there are no model states of rank 0 in {folder}; it has "
                     f"{', '.join(names[:8]) or 'nothing'}", "CHECKPOINT_NOT_FOUND")
    is_universal = os.path.isdir(os.path.join(folder, "zero"))
    own = rank if -1 not in by_rank and len(by_rank) == world_size and not is_universal else 0
    path = os.path.join(folder, by_rank[-1] if -1 in by_rank else by_rank.get(own, by_rank[0]))
    states = _read_dict(load_dir, path, weights_only)
    if not with_optimizer or not states.get("param_shapes"):
        return Saved(path, states, None)
    if is_universal:
        optim_path = os.path.join(folder, "zero", "optimizer_state.pt")
        saved = _read_dict(load_dir, optim_path, weights_only)
    else:
        optim_path = os.path.join(folder, next(filter(_OPTIM_STATES.fullmatch, names),
                                               "zero_pp_rank_0_mp_rank_00_optim_states.pt"))
        saved = _read_dict(load_dir, optim_path, weights_only).get("optimizer_state_dict") or {}
    try:
        optimizer = _optimizer(optim_path, saved, states["param_shapes"])
        if is_universal and _STAGE3_BASE not in saved:
            optimizer.steps = [_universal_step(load_dir, folder, members, weights_only)
                               for members in optimizer.members]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise failed("DATA_LOSS", load_dir, f"{optim_path} is not what DeepSpeed saves: {error!r}",
                     "CHECKPOINT_CORRUPT") from error
    return Saved(path, states, optimizer)


def _tags(load_dir: str) -> str:
    try:
        found = sorted(entry.name for entry in os.scandir(load_dir) if entry.is_dir())
    except OSError:
        return "none: there is no such folder"
    return ", ".join(found[:8]) or "none"


def _optimizer(path: str, saved: Dict[str, Any], shapes: Sequence[Dict[str, Any]]) -> SavedOptimizer:
    base = saved.get(_BASE) or saved.get(_STAGE3_BASE) or {}
    groups = base.get(_GROUPS) or saved[_GROUPS]
    common = {key: saved[key] for key in _GLOBAL if key in saved}
    is_stage3 = _STAGE3_BASE in saved
    # Under stage 3 a group's "params" number its sub-groups, each with a dict of shapes; else there is one of each.
    parts = [list(group["params"]) if is_stage3 else [number] for number, group in enumerate(groups)]
    members = [[name for part in own for name in shapes[part]] for own in parts]
    steps = [_not_of_elements(base.get("state", {}).get(own[0], {})) if own else {} for own in parts]
    return SavedOptimizer(path, common, [{key: value for key, value in group.items() if key != "params"}
                                         for group in groups], members, steps)


def _not_of_elements(state: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in state.items() if not getattr(value, "ndim", 0)}


def _universal_step(load_dir: str, folder: str, members: List[str], weights_only: bool) -> Dict[str, Any]:
    for name in members:
        path = os.path.join(folder, "zero", name, "step.pt")
        if os.path.exists(path):
            return {"step": _read(load_dir, path, weights_only)}
    return {}


def _read_dict(load_dir: str, path: str, weights_only: bool) -> Dict[str, Any]:
    found = _read(load_dir, path, weights_only)
    if not isinstance(found, dict):
        raise failed("DATA_LOSS", load_dir, f"{path} holds a {type(found).__name__}, no dict", "CHECKPOINT_CORRUPT")
    return found


def _read(load_dir: str, path: str, weights_only: bool) -> Any:
    """What torch.save wrote, of which large tensors stay in the file; a legacy stream is read whole."""
    import torch
    try:
        with _allowing_known():
            return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=weights_only)
    except FileNotFoundError as error:
        raise failed("NOT_FOUND", load_dir, f"there is no {path}", "CHECKPOINT_NOT_FOUND") from error
    except pickle.UnpicklingError as error:
        unknown = _unknown_globals(path, error) if weights_only else []
        if not unknown:
            raise failed("DATA_LOSS", load_dir, f"read {path}: {error}", "CHECKPOINT_CORRUPT") from error
        raise failed("UNIMPLEMENTED", load_dir, f"{path} holds objects of {', '.join(unknown)}, and whoever reads such "
                     "objects runs what the file tells to; allow these (torch.serialization.add_safe_globals) or, of a "
                     "folder that you trust, all (weights_only=False), as DeepSpeed does", "UNSUPPORTED") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise failed("DATA_LOSS", load_dir, f"read {path}: {error}", "CHECKPOINT_CORRUPT") from error


def _allowing_known() -> Any:
    """A context in which torch makes objects of DeepSpeed's own classes that its files have: each is made of numbers,
    and does nothing when it is made."""
    import torch
    from deepspeed.runtime.fp16 import loss_scaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address
    known = [ZeroStageEnum, fragment_address, loss_scaler.LossScaler, loss_scaler.DynamicLossScaler]
    # It takes back all that it is given, also what the user has allowed.
    allowed = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([one for one in known if one not in allowed])


def _unknown_globals(path: str, error: Exception) -> List[str]:
    """The names of what torch does not make; empty where it is something else that failed."""
    import torch
    if not zipfile.is_zipfile(path):
        return re.findall(r"GLOBAL (\S+) was not an allowed global", str(error))  # the first; torch reads no further
    with _allowing_known():
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def own_copy(value: Any) -> Any:
    """A value as it is, but for tensors, which leave the file that they lie in."""
    import torch
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        copy = value.copy()
        copy.update((key, own_copy(inner)) for key, inner in value.items())
        return copy
    if type(value) in (list, tuple):
        return type(value)(own_copy(inner) for inner in value)
    return value
