"""The build steps that pyproject.toml cannot say: the generated package zerocast._proto, and the
binaries of a wheel that carries them.

ZEROCAST_BUNDLE names a folder that build_support/zc_bundle.py made: the wheel gets it as
zerocast/_bin, and a tag that says for which machines it is. Without it the wheel is pure Python,
and binaries come from ZEROCAST_BIN_DIR or PATH.
"""

import os
import platform
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before release 70.1
    from wheel.bdist_wheel import bdist_wheel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "build_support"))

import zc_stubs  # noqa: E402

BUNDLE = os.environ.get("ZEROCAST_BUNDLE")


class Binaries(Distribution):
    """Says that it is made for one kind of machine, where it is."""

    def has_ext_modules(self) -> bool:
        """Whether the wheel goes to the folder of one kind of machine."""
        return bool(BUNDLE)


class BuildPy(build_py):
    """Adds to what is built; _proto goes beside the sources for an editable install."""

    def run(self) -> None:
        """As setuptools', then the messages and the binaries."""
        super().run()
        root = HERE / "src" if getattr(self, "editable_mode", False) else Path(self.build_lib)
        zc_stubs.generate(root / "zerocast" / "_proto")
        if BUNDLE:
            target = root / "zerocast" / "_bin"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(BUNDLE, target)


class BdistWheel(bdist_wheel):
    """With binaries: for any Python 3 on a Linux whose glibc is not older than this machine's."""

    def get_tag(self) -> "tuple[str, str, str]":
        """(Python, ABI, platform)."""
        if not BUNDLE:
            return super().get_tag()
        name, version = platform.libc_ver()
        if name != "glibc":
            raise SystemExit(f"setup.py: a wheel with binaries is for glibc, not {name or 'an unknown C library'}")
        return "py3", "none", f"manylinux_{version.replace('.', '_')}_{platform.machine()}"


setup(distclass=Binaries, cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel})
