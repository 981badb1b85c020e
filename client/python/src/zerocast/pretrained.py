"""from_pretrained and load_into: a checkpoint into a model that DeepSpeed trains.

ENGINE.md, beside this package's sources, says how.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from zerocast import _fill, _run_load, _seams, _training_args, _transforms, _zero3, spec
from zerocast._agreement import Ranks, is_said, open_ranks
from zerocast._errors import LoadError

KEYWORDS = ("dtype", "key_mapping", "ignore_mismatched_sizes", "output_loading_info", "subfolder", "variant", "config",
            "attn_implementation", "trust_remote_code")

# As the library names its files, a variant before the last extension, in its order of preference.
_NAMES = (("model", ".safetensors"), ("model.safetensors.index", ".json"),
          ("pytorch_model", ".bin"), ("pytorch_model.bin.index", ".json"))
_VARIANT = re.compile(r"(?:\.([A-Za-z0-9._-]{1,64}))?")  # as the server takes them

DEFAULT_TIMEOUT = 120.0  # seconds
DEFAULT_LOAD_TIMEOUT = 3600.0


@dataclass
class Call:
    """What from_pretrained or load_into was asked for."""

    ranks: Ranks
    config: Dict[str, Any]  # of DeepSpeed; empty: none
    training_args: Any
    server: Optional[str]
    mode: str
    timeout: float
    load_timeout: float
    is_config_of_args: bool  # whether the config is what the training arguments made of theirs

    @property
    def stage(self) -> int:
        """Of ZeRO; 0 without DeepSpeed, too."""
        zero = self.config.get("zero_optimization") or {}
        return int(zero.get("stage", 0)) if self.config else 0


def from_pretrained(cls_or_auto: Any, checkpoint: Any, ds_config: Any = None, training_args: Any = None,
                    server: Optional[str] = None, *, mode: str = "auto", timeout: float = DEFAULT_TIMEOUT,
                    load_timeout: float = DEFAULT_LOAD_TIMEOUT, **keywords: Any) -> Any:
    """What cls_or_auto.from_pretrained(checkpoint, **keywords) gives under that DeepSpeed config, without
    gathering, broadcasting or any rank reading the whole checkpoint. Every rank calls it.

    Under ZeRO-3 each parameter is the partition that deepspeed.zero.Init would have made. Without a config, and under
    ZeRO stages 0 to 2, the parameters are whole. The model is in evaluation mode, as the library's.

    Args:
        cls_or_auto: a class of transformers' models, or an Auto class.
        checkpoint: a folder, or a name on the Hub that the library has, or downloads, on every node.
        ds_config: as HfDeepSpeedConfig takes it, or such an object; by default training_args' own.
        training_args: a transformers.TrainingArguments, where the config has "auto": the server resolves the config
            and refuses one that contradicts them, all contradictions at once.
        server: the address of a zerocast server; by default ZEROCAST_SERVER, else one is started on rank 0's
            node, with an agent on every node, for this load alone.
        mode: as zerocast.attach takes it.
        timeout: seconds that a rank waits for another one that says nothing, and for each call to the server.
        load_timeout: seconds that the load itself may last.
        keywords: of the library's from_pretrained: dtype, key_mapping, ignore_mismatched_sizes,
            output_loading_info, subfolder, variant, config, attn_implementation, trust_remote_code.

    Raises:
        TypeError: another keyword.
        LoadError: the same on every rank, within `timeout` and a few seconds of what happened. Where the library
            raises, its exception is the cause, on the rank that it hit; where the weights do not fit the model, after
            its report on every rank.
    """
    unknown = sorted(set(keywords) - set(KEYWORDS))
    ranks = _open_ranks(mode, timeout, load_timeout, [
        (not unknown, f"from_pretrained does not take {', '.join(unknown)}; of the library's keywords it takes "
         f"{', '.join(KEYWORDS)}"),
        (callable(getattr(cls_or_auto, "from_pretrained", None)), f"cls_or_auto is {cls_or_auto!r}; give a class of "
         "transformers' models, or an Auto class, itself"),
        _is_path(checkpoint)])

    def refuse(error: LoadError) -> None:
        raise error

    with ranks.step("from_pretrained"):
        call = _make_call(ranks, ds_config, training_args, server, mode, timeout, load_timeout)
        _check_folder(checkpoint)
        return load_model(call, lambda: cls_or_auto.from_pretrained(checkpoint, **keywords), refuse)


def _is_path(checkpoint: Any) -> Tuple[bool, str]:
    return (isinstance(checkpoint, (str, os.PathLike)),
            f"checkpoint is {checkpoint!r}; give the path of a folder, or a name on the Hub")


def _is_time(seconds: Any) -> bool:
    return isinstance(seconds, (int, float)) and seconds > 0


def _open_ranks(mode: str, timeout: float, load_timeout: float, wanted: List[Tuple[bool, str]]) -> Ranks:
    """The ranks of this job. Raises TypeError or ValueError where an argument is no such thing, after the others,
    who may have better ones, have been told. `wanted`: (whether it is so, what to say where it is not)."""
    from zerocast.attach import MODES
    error: Optional[Exception] = next((TypeError(said) for holds, said in wanted if not holds), None)
    for name, seconds in (("timeout", timeout), ("load_timeout", load_timeout)):
        if not _is_time(seconds):
            error = error or ValueError(f"{name} is {seconds!r}; give seconds, more than 0")
    if mode not in MODES:
        error = error or ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    ranks = open_ranks(timeout if _is_time(timeout) else DEFAULT_TIMEOUT)
    if error is not None:
        ranks.tell(error)
        raise error
    return ranks


def _check_folder(checkpoint: Any) -> None:
    path = os.fspath(checkpoint)
    if os.path.isfile(path):
        raise LoadError("INVALID_ARGUMENT", f"open checkpoint {path}: it is a file; give the folder that it lies in",
                        "CHECKPOINT_NOT_FOUND")
    if (os.path.isabs(path) or path.startswith(".")) and not os.path.isdir(path):
        # The library would take it for a name on the Hub.
        raise LoadError("NOT_FOUND", f"open checkpoint {path}: there is no such folder; give one that every node sees, "
                        "or a name on the Hub", "CHECKPOINT_NOT_FOUND")


def _begin(call: Call, name: str) -> None:
    import transformers
    _seams.check_release()
    _zero3.refuse_what_cannot_be(call.config)
    call.ranks.alike("begin", {"the call": name, "transformers": transformers.__version__,
                               "the ZeRO stage": call.stage, **_zero3.what_makes_parameters(call.config)})


def load_model(call: Call, own: Callable[[], Any], leave: Callable[[LoadError], None]) -> Any:
    """What own(), a call of the library's from_pretrained, gives, made and filled by zerocast.

    Args:
        call: what was asked for.
        own: the library's from_pretrained, its arguments bound.
        leave: as of _seams.Seam.
    """
    init: Any = None  # what makes the parameters of the outermost model that own() makes
    made_so_far, gathered = itertools.count(), itertools.count()

    def make_init() -> Any:
        nonlocal init
        around = _zero3.init_around()
        if _zero3.is_own(around):
            return around
        # It makes groups of ranks, which is for all of them, as gathering parameters is.
        call.ranks.exchange(f"make a model, {next(made_so_far)}", None)
        made = _zero3.partitioned_init()(config_dict_or_path=call.config)
        made.before_gathering = lambda: call.ranks.exchange(f"gather parameters, {next(gathered)}", None)
        init = around or made
        return made

    def fill(model: Any, files: List[str], load_config: Any) -> Any:
        around = _zero3.init_around()
        is_part = _zero3.is_own(around)  # of a model that is being made
        maker = around if is_part else init
        own_maker = maker if _zero3.is_own(maker) else None
        try:
            info = _load(call, model, files, load_config, recorder, maker)
        except LoadError as error:
            if own_maker is not None and error.code == "UNIMPLEMENTED":
                own_maker.filled(model, is_all=not is_part)  # the library goes on by itself
            raise
        if own_maker is not None:
            own_maker.filled(model, is_all=not is_part)
        return info

    _begin(call, "from_pretrained")
    if call.training_args is not None:
        config = _training_args.as_given(call.config, call.training_args) if call.is_config_of_args else call.config
        _training_args.check(call.ranks, config, call.training_args, call.server, call.timeout)
    alive = _alive_config(call)
    seam = _seams.Seam(fill, make_init if call.stage == 3 else None, leave)
    with _seams.stepped_in(seam) as recorder:
        result = own()
    model = result[0] if isinstance(result, tuple) else result
    if alive is not None:
        # The library keeps but a weak reference, and looks at it as long as the model is used.
        model._zerocast_deepspeed_config = alive
    if init is not None:
        for buffer in model.buffers():
            buffer.data = buffer.data.to(init.local_device)
    return result


def installed(server: Optional[str], mode: str, timeout: float, load_timeout: float, own: Callable[[], Any],
              leave: Callable[[LoadError], None]) -> Any:
    """load_model under the DeepSpeed config that is alive. Where all ranks fail alike each raises its own
    exception, as the library would have; else all raise the same LoadError."""
    ranks = open_ranks(timeout)
    try:
        with ranks.step("from_pretrained"):
            call = _make_call(ranks, None, _training_args.living(), server, mode, timeout, load_timeout)
            return load_model(call, own, leave)
    except LoadError as agreed:
        cause = agreed.__cause__
        # Weights that do not fit are told alike on all ranks, after the library's words.
        alike = agreed.reason == "WEIGHTS_INCOMPLETE" or (isinstance(cause, Exception) and is_said(cause, agreed))
        if not isinstance(cause, Exception) or not alike:
            raise
        own_error = cause
    raise own_error


def load_into(model: Any, checkpoint: Any, ds_config: Any = None, training_args: Any = None,
              server: Optional[str] = None, *, key_mapping: Optional[Dict[str, str]] = None,
              ignore_mismatched_sizes: bool = False, subfolder: str = "", variant: Optional[str] = None,
              mode: str = "auto", timeout: float = DEFAULT_TIMEOUT,
              load_timeout: float = DEFAULT_LOAD_TIMEOUT) -> Dict[str, Any]:
    """Writes a checkpoint's weights over those of a model that is there. Every rank calls it.

    Args:
        model: a transformers.PreTrainedModel: made under deepspeed.zero.Init, or with whole parameters.
        checkpoint, ds_config, training_args, server, mode, timeout, load_timeout: as in from_pretrained.
        key_mapping, ignore_mismatched_sizes, subfolder, variant: as in the library's from_pretrained.

    Returns:
        {"missing_keys": set, "unexpected_keys": set, "mismatched_keys": set, "error_msgs": list}, as the library's
        output_loading_info: what is missing, or has another shape, stays as it was.

    Raises:
        TypeError: the model is not one of transformers'.
        LoadError: the same on every rank; of parameters that were written before it, nothing is known.
    """
    import transformers
    ranks = _open_ranks(mode, timeout, load_timeout, [
        (isinstance(model, transformers.PreTrainedModel), f"model is a {type(model).__name__}; load_into takes a "
         "transformers.PreTrainedModel, whose class says how its weights are named. For plain tensors there is "
         "zerocast.attach"),
        _is_path(checkpoint)])
    with ranks.step("load_into"):
        call = _make_call(ranks, ds_config, training_args, server, mode, timeout, load_timeout)
        _check_folder(checkpoint)
        _begin(call, "load_into")
        in_parts = any(_zero3.is_partitioned(param) for param in model.parameters())
        if in_parts != (call.stage == 3):
            raise LoadError(
                "FAILED_PRECONDITION", f"the model's parameters are {'partitioned' if in_parts else 'whole'}, and the "
                f"config's ZeRO stage is {call.stage}; give the config that the model was made under", "INVALID_FIELDS")
        files, load_config, recorder = _seams.resolve(
            model, os.fspath(checkpoint), key_mapping, ignore_mismatched_sizes, subfolder, variant)
        info = _load(call, model, files, load_config, recorder, None)
        _report(model, load_config, info)
        known: Dict[str, Any] = info.to_dict()
        return known


def _make_call(ranks: Ranks, ds_config: Any, training_args: Any, server: Optional[str], mode: str, timeout: float,
               load_timeout: float) -> Call:
    """What from_pretrained and load_into are asked for, of their arguments."""
    from transformers.integrations import deepspeed
    own = getattr(training_args, "hf_deepspeed_config", None)
    if ds_config is None and training_args is not None:
        ds_config = own or getattr(training_args, "deepspeed", None)
    if ds_config is None:
        ds_config = deepspeed.deepspeed_config()
    if isinstance(ds_config, (str, os.PathLike)):
        ds_config = _read_config(os.fspath(ds_config))
    config = getattr(ds_config, "config", ds_config)
    if config is None:
        config = {}
    _zero3.check_config(config)
    return Call(ranks, config, training_args, server or os.environ.get("ZEROCAST_SERVER") or None, mode, timeout,
                load_timeout, own is not None and config is own.config)


def _read_config(text_or_path: str) -> Any:
    """A config that is a path, JSON text or base64, read as the library reads it."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    try:
        return HfDeepSpeedConfig(text_or_path).config
    except (OSError, ValueError, AttributeError) as error:
        what = text_or_path if len(text_or_path) <= 200 else f"{text_or_path[:200]}..."
        why = f"{type(error).__name__}: {error}" if os.path.exists(text_or_path) else \
            "there is no such file, nor is it JSON, nor base64 of JSON"
        raise LoadError("INVALID_ARGUMENT", f"read the DeepSpeed config {what}: {why}", "INVALID_FIELDS") from error


def _alive_config(call: Call) -> Any:
    """The object by which the library is to know of ZeRO-3; None where it knows already, or need not."""
    from transformers.integrations import deepspeed
    if call.stage != 3 or deepspeed.is_deepspeed_zero3_enabled():
        return None
    return deepspeed.HfDeepSpeedConfig(call.config)


def _load(call: Call, model: Any, files: List[str], load_config: Any, recorder: Any, init: Any) -> Any:
    """Fills a model that is there; returns the library's LoadStateDictInfo. `init`: the zero.Init that
    has made its parameters, where this process knows it."""
    ranks = open_ranks(call.timeout)  # anew: a model may have others within that are loaded before it
    with ranks.step("load the weights"):
        wanted = _wanted(call, model, files, load_config, recorder, init)
        try:
            loaded = _run_load.run(ranks, wanted, call.timeout)
            if loaded.report["conversion_errors"]:
                target, why = next(iter(loaded.report["conversion_errors"].items()))
                raise _run_load.Refused(LoadError("FAILED_PRECONDITION", f"convert the weights: {target}: {why}",
                                                  "WEIGHTS_INCOMPLETE"), loaded.report)
        except _run_load.Refused as refused:
            # After the library's own report. Every rank has the same one.
            error = LoadError(refused.code, f"load {wanted.checkpoint} into {type(model).__name__}: {refused.message}",
                              refused.reason)
            error.is_agreed = True
            try:
                _report(model, load_config, _info(refused.report, set(refused.report["missing"])))
            except RuntimeError as own:
                error.append(str(own))
                raise error from own
            raise error from None
        _fill.check_dtypes(model, loaded.shard)
        filled = (_fill.partitioned(model, loaded.shard, init) if call.stage == 3
                  else _fill.whole(model, loaded.shard)) | _fill.buffers(model, loaded.shard)
        # What the library remembers to convert back by when the model is saved.
        model._weight_conversions = load_config.weight_mapping
        return _info(loaded.report, _fill.not_filled(model, filled))


def _info(report: Dict[str, Any], missing: Set[str]) -> Any:
    import torch
    from transformers.utils.loading_report import LoadStateDictInfo
    mismatched = {(name, torch.Size(found), torch.Size(wanted)) for name, found, wanted in report["mismatched"]}
    return LoadStateDictInfo(
        missing_keys=missing - {name for name, _, _ in mismatched}, unexpected_keys=set(report["unexpected"]),
        mismatched_keys=mismatched, error_msgs=[], conversion_errors=dict(report["conversion_errors"]),
        skipped_pp_keys=set())


def _report(model: Any, load_config: Any, info: Any) -> None:
    from transformers.utils import logging
    from transformers.utils.loading_report import log_state_dict_report
    log_state_dict_report(model=model, pretrained_model_name_or_path=load_config.pretrained_model_name_or_path,
                          ignore_mismatched_sizes=load_config.ignore_mismatched_sizes, loading_info=info,
                          logger=logging.get_logger("transformers.modeling_utils"))


def _wanted(call: Call, model: Any, files: List[str], load_config: Any, recorder: Any,
            init: Any) -> _run_load.Wanted:
    import torch

    from zerocast._proto import types_pb2
    folder, variant = _which(files)
    try:
        described = spec.describe(model, load_config.weight_mapping or [], load_config.dtype, recorder)
    except _transforms.UnknownRelease as error:
        raise LoadError("UNIMPLEMENTED", str(error), "UNSUPPORTED") from error
    options: Dict[str, Any] = {"zero_stage": call.stage, "ignore_mismatched": load_config.ignore_mismatched_sizes,
                               "dtype": types_pb2.DTYPE_POLICY_SPEC}
    if init is not None:
        options["dtype"] = {torch.bfloat16: types_pb2.DTYPE_POLICY_BF16, torch.float16: types_pb2.DTYPE_POLICY_FP16,
                            torch.float32: types_pb2.DTYPE_POLICY_FP32}[init.dtype]
        if init.local_device.type == "cuda" and init.remote_device == init.local_device:
            options["device"] = types_pb2.DEVICE_CUDA
    arguments = _training_args.sent(call.training_args)
    return _run_load.Wanted(
        checkpoint=folder, variant=variant, spec=described, options=options,
        config=call.config if arguments else _without_auto(call.config), arguments=arguments,
        num_training_steps=_training_args.max_steps(call.training_args) if arguments else None,
        model_config=model.config.to_json_string(use_diff=False), server=call.server, mode=call.mode,
        load_timeout=call.load_timeout)


def _without_auto(config: Any) -> Any:
    """DeepSpeed takes its default where a config says "auto" and nobody fills it."""
    if not isinstance(config, dict):
        return config
    return {name: _without_auto(value) for name, value in config.items() if value != "auto"}


def _which(files: Optional[List[str]]) -> Tuple[str, str]:
    """(the folder, the variant) by which an agent reads the files that the library would read."""
    names = {os.path.basename(file) for file in files or []}
    folders = sorted({os.path.dirname(os.path.abspath(file)) for file in files or []})
    if len(folders) != 1:
        raise LoadError("UNIMPLEMENTED", f"the weights are in {', '.join(map(str, files or ['no file']))}; zerocast "
                        "reads the files of one folder: save the model with save_pretrained", "UNSUPPORTED")
    folder = folders[0]
    listed = set(os.listdir(folder))
    for variant in _variants(listed):
        if _taken(folder, listed, variant) == names:
            return folder, variant
    raise LoadError("UNIMPLEMENTED", f"the library takes the weights of {', '.join(sorted(names)[:3])} in {folder}, as "
                    "config.json's transformers_weights or use_safetensors=False may have it; zerocast reads, with a "
                    "variant or without, model.safetensors, else the files that model.safetensors.index.json names, "
                    "else pytorch_model.bin, else those of pytorch_model.bin.index.json", "UNSUPPORTED")


def _variants(names: Set[str]) -> List[str]:
    """Those that files of these names are of; "" first."""
    found = {""}
    for name in names:
        for before, after in _NAMES:
            if name.startswith(before) and name.endswith(after) and len(name) >= len(before) + len(after):
                variant = _VARIANT.fullmatch(name[len(before):len(name) - len(after)])
                found.add(variant[1] or "" if variant else "")
    return sorted(found)


def _taken(folder: str, listed: Set[str], variant: str) -> Set[str]:
    """The files that an agent takes, as the library does."""
    for before, after in _NAMES:
        name = before + ("." + variant if variant else "") + after
        if name not in listed:
            continue
        if after != ".json":
            return {name}
        with open(os.path.join(folder, name), encoding="utf-8") as text:
            return set(json.load(text)["weight_map"].values())
    return set()
