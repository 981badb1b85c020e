"""The wheel of deploy/build_wheel.sh is all of zerocast that a training script needs: an example trains on two ranks with nothing but
it and the training libraries.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR. The libraries are those of this test's environment.
"""

import os
import pathlib
import re
import sys
import sysconfig
import tempfile
import unittest

import deepspeed_releases as releases
import ranks

SOURCE = pathlib.Path(os.environ["ZC_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["ZC_BUILD_DIR"])
EXAMPLES = SOURCE / "client/python/examples"
MODEL = SOURCE / "tests/data/checkpoints/mixtral"
DEEPSPEED = releases.install(BUILD / "oracle" / "deepspeed", "0.19.8")
SECONDS = 1500
# What helps a library, a module or another binary to be found.
HELP = ("LD_", "PYTHON", "ZEROCAST_", "ZC_")


class Wheel(unittest.TestCase):

    def run_it(self, *command, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(HELP)}
        status, output = ranks.launch(command, {**clean, "PATH": "/usr/bin:/bin", **environment}, SECONDS)
        self.assertEqual(status, 0, output[-6000:])
        return output

    def test_an_example_trains(self):
        with tempfile.TemporaryDirectory(prefix="zc_wheel_", dir="/var/tmp") as folder:
            self.run_it("bash", SOURCE / "deploy/build_wheel.sh", f"{folder}/out", ZEROCAST_BUILD_DIR=str(BUILD),
                        PATH=os.environ["PATH"])
            (wheel,) = pathlib.Path(folder, "out").iterdir()
            self.run_it(sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv")
            python = f"{folder}/venv/bin/python"
            self.run_it(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check",
                        "--no-index", "--no-deps", wheel)
            site = pathlib.Path(self.run_it(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
            (site / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n{DEEPSPEED}\n", encoding="utf-8")
            self.assertEqual(self.run_it(python, "-c", "import zerocast; print(zerocast.__file__)").strip(),
                             str(site / "zerocast" / "__init__.py"))
            output = self.run_it(python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, EXAMPLES / "train.py",
                                 MODEL, EXAMPLES / "zero3.json", "--steps", 3, DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
            losses = re.findall(r"rank (\d), step (\d): loss ([0-9.]+)", output)
            self.assertEqual(sorted(loss[:2] for loss in losses), [(rank, step) for rank in "01" for step in "012"], output[-4000:])
            self.assertEqual(len({loss[2] for loss in losses}), 6, "nothing was trained")


if __name__ == "__main__":
    unittest.main()
