"""Puts a model's ZeRO-3 shards into the training processes, by way of zerocast's server and agents."""

import importlib
from typing import TYPE_CHECKING, Any

from zerocast._config import JobConfig, resolve_config
from zerocast._dlpack import DeviceArray
from zerocast._errors import (
    AttachError,
    ConfigError,
    EmbeddedError,
    LoadError,
    ResumeError,
    ServerError,
    UnfilledError,
    ZerocastError,
)
from zerocast._install import install, uninstall
from zerocast.attach import Partition, Shard, attach

if TYPE_CHECKING:
    from zerocast._client import Client, load_error
    from zerocast._embedded import EmbeddedAgent, EmbeddedServer
    from zerocast.pretrained import from_pretrained, load_into
    from zerocast.resume import deepspeed_load_checkpoint, load_checkpoint

__all__ = ["AttachError", "Client", "ConfigError", "DeviceArray", "EmbeddedAgent", "EmbeddedError", "EmbeddedServer",
           "JobConfig", "LoadError", "Partition", "ResumeError", "ServerError", "Shard", "UnfilledError",
           "ZerocastError", "attach", "deepspeed_load_checkpoint", "from_pretrained", "install", "load_checkpoint",
           "load_error", "load_into", "resolve_config", "uninstall"]
__version__ = "0.1.0"

# Imported when they are first asked for: attaching needs neither gRPC nor torch.
_LATE = {"Client": "zerocast._client", "EmbeddedAgent": "zerocast._embedded", "EmbeddedServer": "zerocast._embedded",
         "deepspeed_load_checkpoint": "zerocast.resume", "from_pretrained": "zerocast.pretrained",
         "load_checkpoint": "zerocast.resume", "load_error": "zerocast._client",
         "load_into": "zerocast.pretrained"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
