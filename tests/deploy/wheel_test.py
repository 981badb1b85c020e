#!/usr/bin/env python3
"""deploy/build_wheel.sh makes a wheel that is enough: installed with pip into a fresh environment,
its binaries run with what it carries, and a load is made and attached.

The packages that the wheel depends on come from this test's own environment, so that no index is
asked for them.
"""

import email
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest
import zipfile
from pathlib import Path

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])
BUILD = Path(os.environ["ZC_BUILD_DIR"])
DATA = Path(os.environ["ZC_TEST_DATA"])
BUILD_SECONDS = 1500
RUN_SECONDS = 120
COMMANDS = ("zerocast", "zerocast-server", "zerocast-agent")
GLIBC = {"linux-vdso.so.1", "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0",
         "librt.so.1", "libresolv.so.2", "libutil.so.1", "libanl.so.1"}
LOAD = """
import sys, time, zerocast
from zerocast._client import load_error
from zerocast._proto import job_pb2, types_pb2

assert zerocast.__file__.startswith(sys.prefix), zerocast.__file__
checkpoint = sys.argv[1]
with zerocast.EmbeddedServer(start_timeout=60) as server, \\
        zerocast.EmbeddedAgent(server.address, roots=[checkpoint], start_timeout=60) as agent, \\
        zerocast.Client(server.address) as client:
    job, token = client.create_job(job_pb2.JobSpec(
        checkpoint_path=checkpoint, topology=types_pb2.Topology(world_size=2),
        options=types_pb2.LoadOptions(dtype=types_pb2.DTYPE_POLICY_STORED)))
    *_, load = client.watch_load(client.create_load(job.name).name, time.monotonic() + 60)
    assert load_error(load) is None, load_error(load)
    shards = [zerocast.attach(load.name, rank, token=token, socket=agent.socket) for rank in range(2)]
    print(sum(part.array.size for shard in shards for part in shard.values()))
assert zerocast.resolve_config({"train_batch_size": "auto"}, {"world_size": 3}) == {"train_batch_size": 24}
"""


def clean_environment():
    """Nothing that helps a library or module to be found, or another binary."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("LD_", "PYTHON", "ZEROCAST_", "ZC_"))}
    return {**kept, "PATH": "/usr/bin:/bin"}


def run(*command, environment=None, seconds=RUN_SECONDS):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds,
                          env=environment or clean_environment(), check=False)
    if done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class WheelTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="zc_wheel_", dir="/var/tmp"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        told = run("bash", SOURCE / "deploy/build_wheel.sh", cls.folder / "out", seconds=BUILD_SECONDS,
                   environment={**os.environ, "ZEROCAST_BUILD_DIR": str(BUILD)})
        print(told.strip())
        (cls.wheel,) = (cls.folder / "out").iterdir()
        cls.venv = cls.folder / "venv"
        run(sys.executable, "-m", "venv", "--without-pip", cls.venv)
        cls.python = cls.venv / "bin/python"
        run(sys.executable, "-m", "pip", "--python", cls.python, "install", "--quiet", "--disable-pip-version-check",
            "--no-index", "--no-deps", cls.wheel)
        cls.site = Path(run(cls.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def installed(self, pattern):
        return sorted(self.site.glob(pattern))

    def test_its_tag_says_for_which_machines_it_is(self):
        _, glibc = platform.libc_ver()
        self.assertEqual(self.wheel.name, f"zerocast-0.1.0-py3-none-manylinux_{glibc.replace('.', '_')}_"
                         f"{platform.machine()}.whl")
        with zipfile.ZipFile(self.wheel) as wheel:
            meta = email.message_from_bytes(wheel.read("zerocast-0.1.0.dist-info/METADATA"))
        self.assertEqual(sorted(value.split(">")[0] for value in meta.get_all("Requires-Dist") if "extra" not in value),
                         ["googleapis-common-protos", "grpcio", "numpy", "protobuf"])

    def test_the_commands_run_without_any_other_package(self):
        for command in COMMANDS:
            self.assertRegex(run(self.venv / "bin" / command, "--version"), r"0\.1\.0", command)

    def test_all_libraries_but_glibc_come_with_it(self):
        binaries = [path for path in self.installed("zerocast/_bin/zerocast*") if path.is_file()]
        self.assertEqual(sorted(path.name for path in binaries), sorted(COMMANDS))
        for path in [*binaries, *self.installed("zerocast/_bin/lib/*")]:
            if path in binaries:
                self.assertIn("(RPATH)", run("readelf", "--dynamic", path))
                for line in run("ldd", path).splitlines():
                    name = Path(line.split()[0]).name
                    self.assertTrue(name in GLIBC or f"=> {path.parent / 'lib' / name} " in line, f"{path.name}: {line}")
            self.assertNotIn("(RUNPATH)", run("readelf", "--dynamic", path), path.name)
        names = {path.name for path in self.installed("zerocast/_bin/lib/*")}
        self.assertEqual([name for name in names if name.startswith(("libcuda.so", "libnccl"))], [])
        self.assertGreater(len(names), 3)

    def test_each_library_has_its_licence(self):
        (folder,) = self.installed("zerocast/_bin/licenses")
        rows = [line.split("  ") for line in (folder / "LIBRARIES.txt").read_text(encoding="utf-8").splitlines()
                if ".so" in line]
        self.assertEqual([row[0] for row in rows], [path.name for path in self.installed("zerocast/_bin/lib/*")])
        for name, package, text in rows:
            self.assertGreater((folder / text).stat().st_size, 500, name)
            self.assertEqual(len(package.split(" ")), 2, name)
        self.assertIn("Apache License", (folder / "zerocast-LICENSE.txt").read_text(encoding="utf-8"))

    def test_a_load_is_made_and_attached(self):
        # What the wheel depends on, of this test's environment.
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        self.addCleanup((self.site / "dependencies.pth").unlink)
        elements = int(run(self.python, "-c", LOAD, DATA / "checkpoints/mixtral"))
        self.assertGreater(elements, 10_000)


if __name__ == "__main__":
    unittest.main(verbosity=2)
