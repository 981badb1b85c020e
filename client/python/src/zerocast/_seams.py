"""Where zerocast steps into transformers' from_pretrained: how the model is made, and how it is filled.

Everything else of from_pretrained stays the library's own (transformers 5; ENGINE.md).
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from zerocast import _transforms
from zerocast._errors import LoadError

# _load_pretrained_model of the releases that are known.
_LOADER_PARAMETERS = ["model", "state_dict", "checkpoint_files", "load_config"]
_in_use = threading.RLock()
_depth = 0  # of stepped_in; whoever holds _in_use changes it


def check_release() -> None:
    """Raises LoadError where the installed transformers loads models in another way."""
    import transformers
    loader = getattr(transformers.PreTrainedModel, "_load_pretrained_model", None)
    found = list(inspect.signature(loader).parameters)[:4] if loader is not None else []
    if found != _LOADER_PARAMETERS:
        raise LoadError(
            "UNIMPLEMENTED", f"transformers {transformers.__version__} loads models in a way that zerocast does "
            "not know; install transformers 5.23, or a release of zerocast made for yours", "UNSUPPORTED")
    _transforms.dialect()


def _contexts_of_zero3(cls: Any, dtype: Any, init: Any) -> List[Any]:
    """What the library makes a model in under ZeRO-3, with another zero.Init."""
    from transformers import initialization, modeling_utils
    from transformers.integrations.deepspeed import prevent_arange_dtype_change
    return [modeling_utils.local_torch_dtype(dtype, cls.__name__), initialization.no_tie_weights(),
            modeling_utils.apply_patches(), initialization.no_init_weights(), prevent_arange_dtype_change(),
            init, modeling_utils.set_zero3_state()]


@dataclass
class Seam:
    """How one call of from_pretrained is made zerocast's.

    Attributes:
        fill: called as fill(model, checkpoint_files, load_config); fills the model and returns the
            library's LoadStateDictInfo.
        make_init: makes what takes deepspeed.zero.Init's place, for a model under ZeRO-3; None: the model is made
            on the meta device, whatever DeepSpeed config is around.
        leave: called with a LoadError that says what zerocast cannot do. Where it returns, the library goes on by
            itself.
    """

    fill: Callable[..., Any]
    make_init: Optional[Callable[[], Any]]
    leave: Callable[[LoadError], None]


class _Calls(threading.local):
    """The calls of from_pretrained that this thread is in, the innermost last; None: one that the
    library makes by itself."""

    def __init__(self) -> None:
        self.seams: List[Optional[Seam]] = []
        self.is_next_own = False

    def innermost(self) -> Optional[Seam]:
        return self.seams[-1] if self.seams else None


_calls = _Calls()


def claim() -> bool:
    """Whether the library's from_pretrained that this thread enters now is the one which `stepped_in`
    announced; that is so once."""
    is_own, _calls.is_next_own = _calls.is_next_own, False
    return is_own


def _get_init_context(own: Any) -> Any:
    def get_init_context(cls: Any, dtype: Any, is_quantized: bool, _is_ds_init_called: bool, *rest: Any) -> Any:
        seam = _calls.innermost()
        if seam is not None and is_quantized:
            seam.leave(LoadError("UNIMPLEMENTED", f"{cls.__name__} is to be quantised while it is loaded, which "
                                 "zerocast does not do; load it without a quantization_config", "UNSUPPORTED"))
            _calls.seams[-1] = seam = None
        if seam is None or seam.make_init is None or _is_ds_init_called:
            return own.__get__(None, cls)(dtype, is_quantized, _is_ds_init_called, *rest)
        return _contexts_of_zero3(cls, dtype, seam.make_init())

    return classmethod(get_init_context)


def _load_pretrained_model(own: Any) -> Any:
    def load(model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, expected_keys: Any = None) -> Any:
        seam = _calls.innermost()
        rest = {} if expected_keys is None else {"expected_keys": expected_keys}
        if seam is not None and not rest:  # else an adapter is loaded over a model
            try:
                if state_dict is not None:
                    raise LoadError("UNIMPLEMENTED", "a state_dict is given; zerocast loads what is in files",
                                    "UNSUPPORTED")
                return seam.fill(model, checkpoint_files, load_config), None
            except LoadError as error:
                if error.code != "UNIMPLEMENTED":
                    raise
                seam.leave(error)
        return own.__func__(model, state_dict, checkpoint_files, load_config, **rest)

    return staticmethod(load)


@contextlib.contextmanager
def stepped_in(seam: Seam) -> Iterator[_transforms.Recorder]:
    """Within the block the next from_pretrained of the library, and those that it calls itself, make and
    fill models as the seam says. Blocks nest.

    One thread at a time: the library's class is changed meanwhile. Yields what remembers how the
    model's weight transforms were written.
    """
    import transformers
    from transformers import conversion_mapping
    global _depth
    model_class = transformers.PreTrainedModel
    if not _in_use.acquire(blocking=False):
        raise LoadError("FAILED_PRECONDITION", "another thread of this process loads a model; one at a time",
                        "WRONG_STATE")
    recorder = _transforms.Recorder()
    kept = {name: model_class.__dict__[name] for name in ("get_init_context", "_load_pretrained_model")}
    _depth += 1
    _calls.seams.append(seam)
    _calls.is_next_own = True
    try:
        if _depth == 1:
            model_class.get_init_context = _get_init_context(kept["get_init_context"])
            model_class._load_pretrained_model = _load_pretrained_model(kept["_load_pretrained_model"])
        with recorder, _no_zero3(seam.make_init is None):
            if not _transforms.keeps_patterns():
                # Made anew under the recorder: the release caches its table, and caches it processed.
                conversion_mapping._checkpoint_conversion_mapping_cache = None
            yield recorder
    finally:
        _calls.is_next_own = False
        _calls.seams.pop()
        _depth -= 1
        for name, value in kept.items():
            setattr(model_class, name, value)
        _in_use.release()


@contextlib.contextmanager
def stepped_out() -> Iterator[None]:
    """Within the block the library makes and fills models by itself."""
    _calls.seams.append(None)
    try:
        yield
    finally:
        _calls.seams.pop()


@contextlib.contextmanager
def _no_zero3(wanted: bool) -> Iterator[None]:
    """Hides the DeepSpeed config from the library: whole parameters are no business of ZeRO-3's."""
    from transformers.integrations import deepspeed
    kept = deepspeed._hf_deepspeed_config_weak_ref
    if wanted and deepspeed.is_deepspeed_zero3_enabled():
        deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def resolve(model: Any, checkpoint: str, key_mapping: Optional[Dict[str, str]], ignore_mismatched_sizes: bool,
            subfolder: str, variant: Optional[str]) -> Tuple[List[str], Any, _transforms.Recorder]:
    """(the checkpoint's files, the library's LoadStateDictConfig, what remembers how the transforms were
    written), as from_pretrained makes them for a model of that class."""
    from transformers import conversion_mapping, modeling_utils
    files, metadata = modeling_utils._get_resolved_checkpoint_files(
        pretrained_model_name_or_path=checkpoint, variant=variant, gguf_file=None, use_safetensors=None,
        user_agent=None, is_remote_code=model.is_remote_code(),
        transformers_explicit_filename=getattr(model.config, "transformers_weights", None),
        download_kwargs={"subfolder": subfolder})
    recorder = _transforms.Recorder()
    with recorder:
        if not _transforms.keeps_patterns():
            conversion_mapping._checkpoint_conversion_mapping_cache = None
        transforms = conversion_mapping.get_model_conversion_mapping(model, key_mapping)
    load_config = modeling_utils.LoadStateDictConfig(
        pretrained_model_name_or_path=checkpoint, ignore_mismatched_sizes=ignore_mismatched_sizes,
        sharded_metadata=metadata, dtype=model.dtype, weight_mapping=transforms)
    return files, load_config, recorder
