"""The build steps that pyproject.toml cannot say: the generated package zerocast._proto."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "build_support"))

import zc_stubs  # noqa: E402


class BuildPy(build_py):
    """Generates zerocast._proto into what is built; beside the sources for an editable install."""

    def run(self) -> None:
        super().run()
        root = HERE / "src" if getattr(self, "editable_mode", False) else Path(self.build_lib)
        zc_stubs.generate(root / "zerocast" / "_proto")


setup(cmdclass={"build_py": BuildPy})
