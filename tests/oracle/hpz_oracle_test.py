"""The installed DeepSpeed still makes the hierarchical partitions that tests/data/hpz records.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR; the release is kept in the build folder.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import deepspeed_releases as releases

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])
RELEASES = Path(os.environ["ZC_BUILD_DIR"]) / "oracle" / "deepspeed"
VERSION = "0.19.8"
# DeepSpeed builds an operator for shared memory when it first runs.
MAKE_SECONDS = 3000


class Recorded(unittest.TestCase):
    maxDiff = None

    def test_partitions_hold(self):
        environment = {**os.environ, **releases.ENVIRONMENT, "PYTHONPATH": str(releases.install(RELEASES, VERSION))}
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-B", str(SOURCE / "tests/oracle/make_hpz.py"), folder], check=True,
                           timeout=MAKE_SECONDS, env=environment)
            made = sorted(Path(folder).iterdir())
            self.assertEqual([path.name for path in made],
                             sorted(path.name for path in (SOURCE / "tests/data/hpz").iterdir()))
            for path in made:
                recorded = SOURCE / "tests/data/hpz" / path.name
                self.assertEqual(json.loads(path.read_text(encoding="utf-8")),
                                 json.loads(recorded.read_text(encoding="utf-8")))


if __name__ == "__main__":
    unittest.main()
