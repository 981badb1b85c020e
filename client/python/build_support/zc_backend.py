"""setuptools' build backend, which asks for grpcio-tools where this machine has no protoc."""

from __future__ import annotations

from typing import Any

import zc_stubs
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 (a backend's hooks are the module's functions)


def _with_protoc(requires: list[str]) -> list[str]:
    return requires if zc_stubs.protoc_command() else [*requires, "grpcio-tools>=1.51"]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """As setuptools', and what generates the messages."""
    return _with_protoc(build_meta.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """As setuptools', and what generates the messages."""
    return _with_protoc(build_meta.get_requires_for_build_editable(config_settings))
