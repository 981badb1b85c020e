#!/usr/bin/env python3
"""The Python package is clean under mypy --strict and ruff, by the settings of its pyproject.toml.

torch, transformers and the like are not installed here: they are untyped to the package.
"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PACKAGE = Path(os.environ["ZC_SOURCE_DIR"]) / "client/python"
TREE = Path(os.environ["ZC_BUILD_DIR"]) / "python"
LINT_SECONDS = 600


def run(*command, **environment):
    return subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True,
                          timeout=LINT_SECONDS, check=False, env={**os.environ, **environment})


class TypingTest(unittest.TestCase):

    def mypy(self, *what, path=TREE):
        return run("mypy", "--config-file", PACKAGE / "pyproject.toml",
                   "--cache-dir", Path(os.environ["ZC_BUILD_DIR"]) / "mypy_cache", *what, MYPYPATH=str(path))

    def test_the_package_is_typed(self):
        done = self.mypy()
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"no issues found in \d\d+ source files")

    def test_an_untyped_function_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "zc_untyped.py").write_text("def f(x):\n    return x\n", encoding="utf-8")
            done = self.mypy(Path(folder, "zc_untyped.py"), path=folder)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("no-untyped-def", done.stdout)

    def test_ruff_finds_nothing(self):
        done = run("ruff", "check", "--no-cache", PACKAGE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_ruff_follows_the_settings(self):
        done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--config", PACKAGE / "pyproject.toml",
                               "--stdin-filename", "made.py", "-"], input="import os\n\n\ndef f() -> None:\n    return\n",
                              capture_output=True, text=True, timeout=LINT_SECONDS, check=False)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        for rule in ("F401", "D103"):
            self.assertIn(rule, done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
