"""An example project outside the tree finds the installed client library, builds and runs."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

EXAMPLE = pathlib.Path(__file__).resolve().parent / "example"


def run(*args):
    completed = subprocess.run([str(arg) for arg in args], capture_output=True, text=True,
                               timeout=300, check=False)
    if completed.returncode != 0:
        raise AssertionError(f"{args}: {completed.stdout}{completed.stderr}")
    return completed.stdout


class InstallTest(unittest.TestCase):

    def test_example_project(self):
        with tempfile.TemporaryDirectory(prefix="zc_install_") as folder:
            folder = pathlib.Path(folder)
            run("cmake", "--install", os.environ["ZC_BUILD_DIR"], "--prefix", folder / "prefix")
            run("cmake", "-S", EXAMPLE, "-B", folder / "build", "-G", "Ninja",
                f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}",
                f"-DCMAKE_CXX_FLAGS={os.environ.get('ZC_CXX_FLAGS', '')}")
            run("cmake", "--build", folder / "build")
            example = folder / "build" / "example"
            with cluster.Cluster(num_agents=1) as running:
                out = run(example, running.address, cluster.DATA / "checkpoints" / "mixtral", 2)
                self.assertIn("LOAD_STATE_READY with 2 shards", out)
                refused = subprocess.run([str(example), running.address, "relative/path", "0"],
                                         capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual(refused.returncode, 4, refused)
                self.assertIn("refused: INVALID_FIELDS", refused.stdout)
                self.assertIn("world_size", refused.stdout)
                self.assertIn("checkpoint_path", refused.stdout)


if __name__ == "__main__":
    unittest.main()
