"""Where zerocast steps into transformers' from_pretrained: how the model is made, and how it is filled.

Everything else of from_pretrained stays the library's own (transformers 5; ENGINE.md).
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from zerocast import _transforms
from zerocast._errors import LoadError

# _load_pretrained_model of the releases that are known.
_LOADER_PARAMETERS = ["model", "state_dict", "checkpoint_files", "load_config"]
_in_use = threading.Lock()


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


@contextlib.contextmanager
def stepped_in(fill: Callable[..., Any], make_init: Optional[Callable[[], Any]]) -> Iterator[_transforms.Recorder]:
    """Within the block from_pretrained makes and fills models as zerocast does.

    Args:
        fill: called as fill(model, checkpoint_files, load_config); fills the model and returns the
            library's LoadStateDictInfo.
        make_init: makes what takes deepspeed.zero.Init's place, for a model under ZeRO-3; None: the model is made
            on the meta device, whatever DeepSpeed config is around.

    One thread at a time: the library's class is changed meanwhile. Yields what remembers how the
    model's weight transforms were written.
    """
    import transformers
    from transformers import conversion_mapping
    model_class = transformers.PreTrainedModel
    own_contexts, own_loader = model_class.__dict__["get_init_context"], model_class.__dict__["_load_pretrained_model"]

    def get_init_context(cls: Any, dtype: Any, is_quantized: bool, _is_ds_init_called: bool, *rest: Any) -> Any:
        if is_quantized:
            raise LoadError("UNIMPLEMENTED", f"{cls.__name__} is to be quantised while it is loaded, which "
                            "zerocast does not do; load it without a quantization_config", "UNSUPPORTED")
        if make_init is None or _is_ds_init_called:
            return own_contexts.__get__(None, cls)(dtype, is_quantized, _is_ds_init_called, *rest)
        return _contexts_of_zero3(cls, dtype, make_init())

    def load(model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any,
             expected_keys: Any = None) -> Any:
        if state_dict is not None:
            raise LoadError("INVALID_ARGUMENT", "state_dict is given; zerocast loads what is in files", "UNSUPPORTED")
        return fill(model, checkpoint_files, load_config), None

    if not _in_use.acquire(blocking=False):
        raise LoadError("FAILED_PRECONDITION", "another thread of this process loads a model; one at a time",
                        "WRONG_STATE")
    recorder = _transforms.Recorder()
    try:
        model_class.get_init_context = classmethod(get_init_context)
        model_class._load_pretrained_model = staticmethod(load)
        with recorder, _no_zero3(make_init is None):
            if not _transforms.keeps_patterns():
                # Made anew under the recorder: the release caches its table, and caches it processed.
                conversion_mapping._checkpoint_conversion_mapping_cache = None
            yield recorder
    finally:
        model_class.get_init_context = own_contexts
        model_class._load_pretrained_model = own_loader
        _in_use.release()


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
