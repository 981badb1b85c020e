"""Has the library's own from_pretrained go through zerocast: TRAINER.md, beside this package's sources."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import logging
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Sequence

from zerocast._errors import LoadError

logger = logging.getLogger("zerocast")

_MODELS = "transformers.modeling_utils"
_DEEPSPEED = "transformers.integrations.deepspeed"
_TRAINER = "transformers.trainer"
_RESUME = "deepspeed_load_checkpoint"  # of both: the Trainer imports it by name
DEFAULT_TIMEOUT = 120.0  # seconds
DEFAULT_LOAD_TIMEOUT = 3600.0

# Keywords of from_pretrained by which the library does something that zerocast does not, where
# they are given.
_SPLIT = "the library is to split the model"
_KERNELS = "kernels of the Hub change the model"
_LIBRARYS = {
    "state_dict": "weights are given, not a checkpoint", "gguf_file": "GGUF files are not read",
    "device_map": "Accelerate is to spread the model over devices",
    "quantization_config": "the model is to be quantised", "distributed_config": _SPLIT, "device_mesh": _SPLIT,
    "tp_plan": _SPLIT, "tp_size": _SPLIT, "use_kernels": _KERNELS, "kernel_config": _KERNELS,
    "fusion_config": "modules are to be fused"}


@dataclass(frozen=True)
class Settings:
    """As install takes them."""

    strict: bool
    server: Optional[str]
    mode: str
    timeout: float
    load_timeout: float


class _Installed:
    """What is in place."""

    def __init__(self) -> None:
        self.settings: Optional[Settings] = None
        self.from_pretrained: Any = None  # the library's own, a classmethod
        self.process: Any = None  # HfTrainerDeepSpeedConfig's own trainer_config_process
        self.resume: Any = None  # the library's own deepspeed_load_checkpoint


_installed = _Installed()


def install(*, strict: bool = False, server: Optional[str] = None, mode: str = "auto",
            timeout: float = DEFAULT_TIMEOUT, load_timeout: float = DEFAULT_LOAD_TIMEOUT) -> None:
    """From now on the from_pretrained of every model class of transformers goes through zerocast, under the
    DeepSpeed config that is alive, that of the TrainingArguments for instance. Every rank calls it, before it loads
    models, and before it makes TrainingArguments that are to be checked early; transformers need not be imported yet.
    The Trainer resumes from DeepSpeed's checkpoints by zerocast.load_checkpoint, at any number of ranks.

    What zerocast cannot load is loaded by the library itself, and a line of the log says why. Called again, it
    changes the settings.

    Args:
        strict: what zerocast cannot load is an error.
        server, mode, timeout, load_timeout: as in zerocast.from_pretrained.
    """
    _installed.settings = Settings(strict, server, mode, timeout, load_timeout)
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def uninstall() -> None:
    """Takes back what install did. Models that were loaded stay as they are."""
    _installed.settings = None
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    if _installed.from_pretrained is not None:
        sys.modules[_MODELS].PreTrainedModel.from_pretrained = _installed.from_pretrained
        _installed.from_pretrained = None
    if _installed.process is not None:
        config_class = sys.modules[_DEEPSPEED].HfTrainerDeepSpeedConfig
        config_class.trainer_config_process = _installed.process
        _installed.process = None
    if _installed.resume is not None:
        for name in (_DEEPSPEED, _TRAINER):
            if name in sys.modules:
                setattr(sys.modules[name], _RESUME, _installed.resume)
        _installed.resume = None


class _Finder(importlib.abc.MetaPathFinder):
    """Patches transformers' modules when they are imported: nothing is imported before a script does,
    which may have variables of the environment to set."""

    def find_spec(self, name: str, path: Optional[Sequence[str]],
                  target: Optional[ModuleType] = None) -> Optional[importlib.machinery.ModuleSpec]:
        """As importlib wants it; a module that is not to be patched is none of this finder's."""
        if name not in _PATCHES:
            return None
        specs = (finder.find_spec(name, path, target) for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            if _installed.settings is not None:
                _PATCHES[name](module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _patch_models(module: Any) -> None:
    if _installed.from_pretrained is not None:
        return
    own = _installed.from_pretrained = module.PreTrainedModel.__dict__["from_pretrained"]

    @functools.wraps(own.__func__)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *model_args: Any, **keywords: Any) -> Any:
        return _from_pretrained(functools.partial(own.__get__(None, cls), pretrained_model_name_or_path, *model_args,
                                                  **keywords), pretrained_model_name_or_path, keywords)

    module.PreTrainedModel.from_pretrained = classmethod(from_pretrained)


def _patch_deepspeed(module: Any) -> None:
    _patch_resume(module)
    if _installed.process is not None:
        return
    own = _installed.process = module.HfTrainerDeepSpeedConfig.trainer_config_process

    @functools.wraps(own)
    def trainer_config_process(self: Any, args: Any, *rest: Any, **keywords: Any) -> None:
        from zerocast import _training_args
        own(self, args, *rest, **keywords)
        _training_args.remember(self, args)

    module.HfTrainerDeepSpeedConfig.trainer_config_process = trainer_config_process


def _patch_resume(module: Any) -> None:
    own = getattr(module, _RESUME, None)
    if own is None or hasattr(own, "_zerocast"):
        return
    _installed.resume = own

    @functools.wraps(own)
    def resume(deepspeed_engine: Any, checkpoint_path: Any, load_module_strict: bool = True) -> Any:
        return _resume(functools.partial(own, deepspeed_engine, checkpoint_path, load_module_strict=load_module_strict),
                       deepspeed_engine, checkpoint_path, load_module_strict)

    resume._zerocast = True  # type: ignore[attr-defined]
    setattr(module, _RESUME, resume)


_PATCHES: Dict[str, Callable[[Any], None]] = {_MODELS: _patch_models, _DEEPSPEED: _patch_deepspeed,
                                              _TRAINER: _patch_resume}


def _leave(what: str, error: LoadError, strict: bool) -> None:
    """Says why the library does it itself; raises the error where it is not to."""
    if strict:
        raise error
    level = logging.WARNING if os.environ.get("RANK", "0") == "0" else logging.INFO
    logger.log(level, "%s by transformers itself, not by zerocast: %s", what, error.message)


def _resume(own: Callable[[], Any], engine: Any, checkpoint: Any, strict_module: bool) -> Any:
    """The library's deepspeed_load_checkpoint, own(); by zerocast, where that can."""
    from zerocast import resume
    settings = _installed.settings
    if settings is None:
        return own()
    try:
        return resume.deepspeed_load_checkpoint(
            engine, checkpoint, strict_module, server=settings.server, mode=settings.mode, timeout=settings.timeout,
            load_timeout=settings.load_timeout)
    except LoadError as error:
        if error.code != "UNIMPLEMENTED":
            raise
        _leave(f"{checkpoint} is resumed from", error, settings.strict)  # all ranks do, for the error is the same
        return own()


def _from_pretrained(own: Callable[[], Any], checkpoint: Any, keywords: Dict[str, Any]) -> Any:
    """What own() gives; by zerocast, where that can."""
    from zerocast import _seams, _zero3, pretrained
    settings = _installed.settings
    if _seams.claim() or settings is None:
        return own()

    def leave(error: LoadError) -> None:
        _leave(f"{checkpoint} is loaded", error, settings.strict)

    try:
        _seams.check_release()
        _look_at(checkpoint, keywords)
        from transformers.integrations import deepspeed
        _zero3.refuse_what_cannot_be(deepspeed.deepspeed_config() or {})
    except LoadError as error:
        leave(error)
        with _seams.stepped_out():
            return own()
    return pretrained.installed(settings.server, settings.mode, settings.timeout, settings.load_timeout, own, leave)


def _look_at(checkpoint: Any, keywords: Dict[str, Any]) -> None:
    """Raises LoadError where the call is the library's."""
    from transformers.integrations import is_fsdp_enabled
    if checkpoint is None:
        raise LoadError("UNIMPLEMENTED", "no checkpoint is named", "UNSUPPORTED")
    if is_fsdp_enabled():
        raise LoadError("UNIMPLEMENTED", "FSDP is on, for which the library loads on one rank of each node",
                        "UNSUPPORTED")
    for name, why in _LIBRARYS.items():
        value = keywords.get(name)
        if not (value is None or value is False or value == {}):
            raise LoadError("UNIMPLEMENTED", f"{name} is given: {why}", "UNSUPPORTED")
