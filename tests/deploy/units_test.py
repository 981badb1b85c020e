#!/usr/bin/env python3
"""Checks deploy's package lists, their installer, the systemd units and the Slurm example."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])
BIN = Path(os.environ.get("ZC_BIN_DIR", "/nonexistent"))
DEPLOY = SOURCE / "deploy"
INSTALLER = DEPLOY / "install_packages.sh"


def run(command, **kwargs):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60, check=False, **kwargs)


def packages(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def known_flags(command):
    """The flags that --help of a built binary lists, or None when it is not built."""
    if not (BIN / command[0]).exists():
        return None
    done = run([str(BIN / command[0]), *command[1:], "--help"])
    assert done.returncode == 0, f"{command}: --help exits {done.returncode}: {done.stdout}"
    return set(re.findall(r"--([a-z][a-z0-9-]*)", done.stdout))


class Installer(unittest.TestCase):
    """The real script among stand-ins for dpkg-query, apt-get, id, sudo and kubectl."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="zerocast-installer-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.log = self.folder / "log"
        self.log.touch()
        for tool in ("env", "bash", "sed", "sort", "grep", "dirname", "cat"):
            (self.folder / tool).symlink_to(shutil.which(tool))
        self.list = self.folder / "list.txt"
        self.list.write_text("# why\nhave-it  # because\n\nlack-it\nremoved\n", encoding="utf-8")
        self.tool("dpkg-query", 'echo "have-it installed"; echo "removed config-files"; exit 1')
        self.tool("apt-get", f'echo "apt-get $*" >> {self.log}')
        self.as_user(0)

    def tool(self, name, body):
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def as_user(self, uid):
        self.tool("id", f"echo {uid}")

    def install(self, *lists):
        return run(["bash", str(INSTALLER), *map(str, lists or [self.list])],
                   env={"PATH": str(self.folder)})

    def calls(self):
        return self.log.read_text(encoding="utf-8").splitlines()

    def test_only_what_is_missing_is_installed(self):
        done = self.install()
        self.assertEqual(done.returncode, 0, done.stdout)
        update, install = self.calls()
        self.assertTrue(update.endswith(" update"), update)
        self.assertTrue(install.endswith("--no-install-recommends lack-it removed"), install)

    def test_a_complete_machine_is_left_alone(self):
        self.list.write_text("have-it\n", encoding="utf-8")
        self.as_user(1000)  # neither root nor sudo is needed then
        done = self.install()
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertEqual(self.calls(), [])

    def test_a_user_installs_through_sudo(self):
        self.as_user(1000)
        self.tool("sudo", f'echo "sudo" >> {self.log}; exec "$@"')
        self.assertEqual(self.install().returncode, 0)
        self.assertEqual([c.split()[0] for c in self.calls()],
                         ["sudo", "apt-get", "sudo", "apt-get"])

    def test_neither_root_nor_sudo_is_told(self):
        self.as_user(1000)
        done = self.install()
        self.assertEqual(done.returncode, 1)
        self.assertIn("neither root nor sudo", done.stdout)
        self.assertIn("apt-get install --no-install-recommends lack-it removed", done.stdout)
        self.assertEqual(self.calls(), [])

    def test_a_failing_apt_is_told(self):
        self.tool("apt-get", "exit 100")
        done = self.install()
        self.assertEqual(done.returncode, 1)
        self.assertIn("apt-get update failed", done.stdout)

    def test_another_kubectl_serves(self):
        self.list.write_text("have-it\nkubernetes-client\n", encoding="utf-8")
        self.tool("kubectl", "")
        self.assertEqual(self.install().returncode, 0)
        self.assertEqual(self.calls(), [])
        (self.folder / "kubectl").unlink()
        self.assertEqual(self.install().returncode, 0)
        self.assertTrue(self.calls()[-1].endswith(" kubernetes-client"), self.calls())

    def test_a_missing_list_is_told(self):
        done = self.install(self.folder / "nowhere.txt")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nowhere.txt", done.stdout)


class Packages(unittest.TestCase):
    def test_each_is_named_once(self):
        names = [n for f in ("packages.txt", "packages-dev.txt") for n in packages(DEPLOY / f)]
        self.assertEqual(sorted(names), sorted(set(names)))
        runtime = packages(DEPLOY / "packages-runtime.txt")
        self.assertEqual(runtime, sorted(set(runtime)))

    def test_the_runtime_list_covers_what_the_binaries_load(self):
        binaries = [b for b in (BIN / "zerocast-server", BIN / "zerocast-agent") if b.exists()]
        if not binaries:
            self.skipTest("zerocast-server and zerocast-agent are not built")
        if b"libasan" in b"".join(b.read_bytes() for b in binaries):
            self.skipTest("the binaries are built with a sanitizer")
        wanted = packages(DEPLOY / "packages-runtime.txt")
        covered, todo = set(), wanted + ["libc6", "libstdc++6", "libgcc-s1"]
        while todo:
            name = todo.pop()
            if name in covered:
                continue
            covered.add(name)
            depends = run(["dpkg-query", "-W", "-f=${Pre-Depends}, ${Depends}", name]).stdout
            todo += [re.split(r"[ (:|]", d.strip())[0] for d in depends.split(",") if d.strip()]
        for binary in binaries:
            for path in re.findall(r"=> (/\S+)", run(["ldd", str(binary)]).stdout):
                if os.path.basename(path).startswith("libcudart.so."):
                    continue  # NVIDIA's package, not Debian's: deploy/README.md names it
                # Debian's merged /usr: dpkg may know a library by either path.
                paths = {path, os.path.realpath(path), path.removeprefix("/usr")}
                owners = {line.split(":")[0] for p in paths
                          for line in run(["dpkg-query", "-S", p]).stdout.splitlines()
                          if "no path found" not in line}
                with self.subTest(binary=binary.name, library=path):
                    self.assertTrue(owners & covered,
                                    f"{owners} is neither in packages-runtime.txt nor needed by it")

    def test_the_dockerfile_copies_what_exists(self):
        text = (DEPLOY / "container/Dockerfile").read_text("utf-8")
        sources = [s for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M)
                   for s in line.split()[:-1]]
        self.assertGreater(len(sources), 5)
        for source in sources:
            self.assertTrue((SOURCE / source).exists(), source)


class Units(unittest.TestCase):
    UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

    def test_systemd_accepts_them(self):
        tool = shutil.which("systemd-analyze")
        if not tool:
            self.skipTest("systemd-analyze is not installed")
        done = run([tool, "verify", *map(str, self.UNITS)])
        ours = [line for line in done.stdout.splitlines()
                if "zerocast" in line and "is not executable: No such file" not in line]
        self.assertEqual(ours, [])

    def test_the_binaries_know_every_flag(self):
        self.assertEqual(len(self.UNITS), 2)
        absent = []
        for unit in self.UNITS:
            text = unit.read_text("utf-8")
            command = re.search(r"^ExecStart=/usr/bin/(\S+) (.*)$", text, re.M)
            used = set(re.findall(r"--([a-z][a-z0-9-]*)", command.group(2) + "".join(
                re.findall(r"^Environment=ZEROCAST_ROOTS=(.*)$", text, re.M))))
            known = known_flags([command.group(1)])
            if known is None:
                absent.append(command.group(1))
            else:
                self.assertLessEqual(used, known, unit.name)
        if absent:
            self.skipTest(f"not built: {', '.join(absent)}")

    def test_a_server_and_an_agent_fit_on_one_host(self):
        ports = [port for unit in self.UNITS for port in
                 re.findall(r"-?listen=[0-9.]+:(\d+)", unit.read_text("utf-8"))]
        self.assertEqual(len(ports), 5)
        self.assertEqual(len(set(ports)), 5, ports)


class Slurm(unittest.TestCase):
    SCRIPT = DEPLOY / "slurm/train.sbatch"

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="zerocast-slurm-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.log = self.folder / "log"
        self.tool("scontrol", "printf 'n1\\nn2\\n'")
        self.tool("zerocast", f'echo "zerocast $*" >> {self.log}')
        self.tool("srun", f'echo "srun $*" >> {self.log}')

    def tool(self, name, body):
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def submit(self):
        env = {"PATH": f"{self.folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
               "SLURM_RESTART_COUNT": "1", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8",
               "SLURM_JOB_NODELIST": "n[1-2]", "ZEROCAST_SERVER": "dns:///z:50051"}
        return run(["bash", str(self.SCRIPT), "/ckpt", "ds.json", "train.py", "--x"], env=env)

    def test_the_load_comes_before_the_ranks(self):
        done = self.submit()
        self.assertEqual(done.returncode, 0, done.stdout)
        load, ranks = self.log.read_text("utf-8").splitlines()
        self.assertIn("--request-id 7.1 ", load)
        self.assertIn("--world-size 16 ", load)
        self.assertIn("--node=n1 --node=n2 ", load)
        self.assertTrue(ranks.endswith("n1:29500 train.py --deepspeed ds.json --x"), ranks)

    def test_no_rank_starts_after_a_failed_load(self):
        self.tool("zerocast", f'echo "zerocast $*" >> {self.log}; exit 4')
        self.assertEqual(self.submit().returncode, 4)
        self.assertEqual(len(self.log.read_text("utf-8").splitlines()), 1)

    def test_the_command_knows_every_flag(self):
        known = known_flags(["zerocast", "job", "submit"])
        if known is None:
            self.skipTest("zerocast is not built")
        text = self.SCRIPT.read_text("utf-8")
        command = re.search(r"zerocast job submit (?:.*\\\n)*.*$", text, re.M).group(0)
        self.assertLessEqual(set(re.findall(r"--([a-z][a-z0-9-]*)", command)), known)


if __name__ == "__main__":
    unittest.main(verbosity=2)
