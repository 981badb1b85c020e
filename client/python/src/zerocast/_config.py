"""DeepSpeed configs: resolving one, and asking what that of a job says."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from zerocast._binaries import find_binary
from zerocast._errors import ConfigError, EmbeddedError, ServerError

# What the integration reads of TrainingArguments; get_warmup_steps() reads warmup_steps.
_ARGUMENTS = ("world_size", "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm",
              "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "warmup_steps",
              "save_on_each_node", "fp16", "fp16_full_eval", "bf16", "bf16_full_eval")
_HIDDEN_SIZES = ("hidden_size", "hidden_sizes")
_CONFIG_KEYS = {"ds_config": "config_value_json", "ds_config_text": "config_json"}


class _Answer(NamedTuple):
    resolved: str  # JSON text; empty after an error
    stage: str  # of the error: "parse", "process", "init", or "request"
    type: str  # the exception of the integration; of stage "request" a status code's name
    message: str
    violations: Sequence[Tuple[str, str]]


def _source(ds_config: Any) -> Dict[str, Any]:
    """The config as the batch names it, by the rules of HfDeepSpeedConfig."""
    if isinstance(ds_config, Mapping):
        return {"ds_config": dict(ds_config)}
    text = os.fspath(ds_config) if isinstance(ds_config, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise ConfigError(f"ds_config: must be a dict, a path or a string, not {type(ds_config).__name__}",
                          stage="request")
    if os.path.exists(text):
        try:
            with open(text, encoding="utf-8") as file:
                return {"ds_config": json.load(file)}
        except (OSError, ValueError) as error:
            raise ConfigError(f"read DeepSpeed config {text}: {error}", stage="parse",
                              error_type=type(error).__name__) from error
    return {"ds_config_text": text}


def arguments_of(training_args: Any) -> Dict[str, Any]:
    """What the integration reads of a TrainingArguments, or of a dict, as JSON values."""
    if isinstance(training_args, Mapping):
        return dict(training_args)
    missing = [name for name in _ARGUMENTS if not hasattr(training_args, name)]
    if missing:
        raise ConfigError(f"training_args: must be a TrainingArguments or a dict; {type(training_args).__name__} has "
                          f"no {', '.join(missing)}", stage="request")
    return {name: getattr(training_args, name) for name in _ARGUMENTS}


def _model_config(model_config: Any) -> Optional[Dict[str, Any]]:
    """What the integration looks for in a model's config, through the aliases of its class
    (attribute_map), which its config.json does not tell."""
    if model_config is None or isinstance(model_config, Mapping):
        return None if model_config is None else dict(model_config)
    found = {name: getattr(model_config, name) for name in _HIDDEN_SIZES if hasattr(model_config, name)}
    if hasattr(model_config, "text_config"):
        text = model_config.text_config
        found["text_config"] = {name: getattr(text, name) for name in _HIDDEN_SIZES if hasattr(text, name)}
    return found


def _dumps(what: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: cannot be written as JSON: {error}", stage="request") from error


def _ask_command(case: Dict[str, Any], timeout: float) -> _Answer:
    """By the command that the package carries: no server, no port."""
    command = [str(find_binary("zerocast")), "config", "resolve", "--batch", "-"]
    members = [f"{json.dumps(key)}: {_dumps(key, value)}" for key, value in case.items()]
    environment = {key: value for key, value in os.environ.items() if key != "ZEROCAST_SERVER"}
    try:
        done = subprocess.run(command, input="{" + ", ".join(members) + "}\n", capture_output=True, timeout=timeout,
                              env=environment, check=False, encoding="utf-8")
    except subprocess.TimeoutExpired as error:
        raise EmbeddedError("DEADLINE_EXCEEDED", f"run {' '.join(command)}: no answer within {timeout:g}s",
                            "DEADLINE_EXCEEDED") from error
    except OSError as error:
        raise EmbeddedError("UNAVAILABLE", f"run {' '.join(command)}: {error}", "IO_ERROR") from error
    if done.returncode != 0:
        raise EmbeddedError("INTERNAL", f"run {' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}",
                            "INTERNAL")
    answer = json.loads(done.stdout)
    refusal = answer.get("error")
    if refusal is not None:
        return _Answer("", refusal["stage"], refusal["type"], refusal["message"], ())
    return _Answer(json.dumps(answer["resolved"]), "", "", "", ())


def _ask_server(server: str, case: Dict[str, Any], timeout: float) -> _Answer:
    import grpc

    from zerocast._call_errors import details_of
    from zerocast._client import Client
    from zerocast._proto import config_pb2

    request = config_pb2.ResolveConfigRequest(
        training_arguments_json=_dumps("args", case["args"]), inference=case["inference"],
        auto_find_batch_size=case["auto_find_batch_size"], dialect=case["dialect"])
    for key, field in _CONFIG_KEYS.items():
        if key in case:
            setattr(request, field, _dumps(key, case[key]) if key == "ds_config" else case[key])
    if case["model_config"] is not None:
        request.model_config_json = _dumps("model_config", case["model_config"])
    if case["num_training_steps"] is not None:
        request.num_training_steps = case["num_training_steps"]
    with Client(server, timeout=timeout) as client:
        # A batch of one: its errors come whole, where a failed call's must fit gRPC's metadata.
        (result,) = client.batch_resolve_configs([request])
    if not result.HasField("status"):
        return _Answer(result.response.config_json, "", "", "", ())
    _, violations = details_of(result.status)
    if result.HasField("error"):
        return _Answer("", result.error.stage, result.error.type, result.error.message, violations)
    code = next((code.name for code in grpc.StatusCode if code.value[0] == result.status.code), "UNKNOWN")
    return _Answer("", "request", code, result.status.message, violations)


def resolve_config(ds_config: Union[Mapping[str, Any], str, "os.PathLike[str]"], training_args: Any,
                   model_config: Any = None, num_training_steps: Optional[int] = None, *,
                   server: Optional[str] = None, inference: bool = False, auto_find_batch_size: bool = False,
                   dialect: str = "", timeout: float = 30.0) -> Dict[str, Any]:
    """The config with every "auto" filled, as Transformers' integration fills it (trainer_config_process,
    trainer_config_finalize and deepspeed_init): the same values of the same types in the same order.

    Args:
        ds_config: a dict, a path, JSON text, or url-safe base64 of it; it is not changed.
        training_args: a transformers.TrainingArguments, or a dict of its fields and world_size.
        model_config: the model's PretrainedConfig, or a dict as in config.json; needed where a
            bucket size is "auto".
        num_training_steps: optimizer steps of the whole training; None: the config is processed,
            but what depends on steps or the model stays "auto".
        server: asks this server; None: the command that this package carries, in this machine.
        inference: resolve for evaluation: ZeRO-3 only, optimizer and scheduler dropped.
        auto_find_batch_size: the batch size is searched for: batch keys need not match.
        dialect: the Transformers release whose rules apply, "5.23.0" or "5.1.0"; "": the newest.
        timeout: in seconds.

    Raises:
        ConfigError: what the integration would raise, with its text; all mismatches at once.
        ServerError, EmbeddedError: nobody could be asked.
    """
    case: Dict[str, Any] = {
        **_source(ds_config), "args": arguments_of(training_args), "model_config": _model_config(model_config),
        "num_training_steps": None if num_training_steps is None else int(num_training_steps),
        "inference": bool(inference), "auto_find_batch_size": bool(auto_find_batch_size), "dialect": dialect}
    answer = _ask_command(case, timeout) if server is None else _ask_server(server, case, timeout)
    if answer.stage:
        raise ConfigError(answer.message, stage=answer.stage, error_type=answer.type, violations=answer.violations)
    resolved: Dict[str, Any] = json.loads(answer.resolved)
    return resolved


class JobConfig:
    """What the resolved config of a job says, asked as accelerate's HfDeepSpeedConfig is.

    It is read once, from the server: a job's config never changes, and the answers stay when the
    job is deleted. A node on the way that is no object raises AttributeError, as there.

    Attributes:
        job: "jobs/ID".
        config: the whole, as a dict; it is this object's own.
        content_hash: of the config's content; equal for equal configs.
    """

    def __init__(self, job: str, server: str, *, timeout: float = 30.0) -> None:
        """Asks the server.

        Args:
            job: "jobs/ID".
            server: the server's address.
            timeout: in seconds.

        Raises:
            ServerError: NOT_FOUND where there is no such job, or it has no config; else as of Client.
        """
        from zerocast._client import Client

        with Client(server, timeout=timeout) as client:
            answer = client.query_config(job)
        if not answer.HasField("value_json"):
            raise ServerError("NOT_FOUND", f"query the config of {job} on server {server}: the job was submitted "
                              "without a DeepSpeed config", "NOT_FOUND")
        self.job = job
        self.config: Dict[str, Any] = json.loads(answer.value_json)
        self.content_hash = answer.content_hash
        self._dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(answer.dtype, "float32")
        self._stage = self.get_value("zero_optimization.stage", -1)
        self._offload = answer.offload

    def find_config_node(self, path: str) -> Tuple[Any, str]:
        """(the object that holds the last name of the path, that name); (None, name) where a part
        of the way is absent or null."""
        *way, name = path.split(".")
        node: Any = self.config
        for part in way:
            node = node.get(part)
            if node is None:
                return None, name
        return node, name

    def get_value(self, path: str, default: Any = None) -> Any:
        """The value at a path such as "zero_optimization.stage"; null is None, not the default."""
        node, name = self.find_config_node(path)
        return default if node is None else node.get(name, default)

    def is_true(self, path: str) -> bool:
        """Whether the value is there and holds ("auto" does)."""
        value = self.get_value(path)
        return value is not None and bool(value)

    def is_false(self, path: str) -> bool:
        """Whether the value is there and does not hold."""
        value = self.get_value(path)
        return value is not None and not value

    def is_auto(self, path: str) -> bool:
        """Whether the value is still "auto"."""
        return bool(self.get_value(path) == "auto")

    def is_zero2(self) -> bool:
        """ZeRO stage 2."""
        return bool(self._stage == 2)

    def is_zero3(self) -> bool:
        """ZeRO stage 3."""
        return bool(self._stage == 3)

    def is_offload(self) -> bool:
        """Whether optimizer or parameters lie on the host or NVMe, under ZeRO stage 2 or 3."""
        return self._offload

    def dtype_name(self) -> str:
        """"bfloat16", "float16" or "float32": the dtype of the parameters."""
        return self._dtype

    def dtype(self) -> Any:
        """The same as a torch.dtype."""
        import torch
        return getattr(torch, self._dtype)
