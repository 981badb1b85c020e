"""What goes wrong beside a load of real processes: a full disk, a kill while sending, a port scan; and 200 loads.

Reads that fail, are short or refused, and files that change meanwhile: tests/client/agent/load_reads_test.cc.
"""

import collections
import contextlib
import errno
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
SETTLE_S = 30
# A sanitizer is ten times slower, and keeps what is freed for a while.
SANITIZED = bool(os.environ.get("ZC_SANITIZED"))
LOADS, WARM_UP_LOADS = (20, 10) if SANITIZED else (200, 40)
# What an allocator may keep, and what the records of the loads are: far below what they move.
SLACK_KB = (512 if SANITIZED else 4) << 10
SLACK_THREADS = 8  # gRPC's pools grow and shrink


def zc(running, *args, **kwargs):
    return cluster.zerocast("--server", running.address, "--output", "json", *args, **kwargs)


def descriptors(pid):
    """What each open descriptor of a process is, without numbers."""
    kinds = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds.append(os.readlink(entry).split(":[")[0])
    return kinds


def status_kb(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {field}")


def thread_count(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def listening_ports(pid):
    """Ports on which a process accepts TCP connections on 127.0.0.1."""
    inodes = set()
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                link = os.readlink(f"/proc/{pid}/fd/{entry}")
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
    ports = set()
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        if field[3] == "0A" and field[9] in inodes:
            ports.add(int(field[1].split(":")[1], 16))
    return ports


def large_checkpoint(folder, num_bytes):
    """Eight tensors without a model."""
    folder.mkdir()
    block = os.urandom(1 << 20) * (num_bytes >> 23)
    cluster.write_safetensors(folder / "model.safetensors", {
        f"w{index}": ("BF16", [len(block) // 2], block) for index in range(8)})
    return folder


class PortScan(threading.Thread):
    """Connects to every port that some processes listen on, and to each new one again and again."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self._pids = pids
        self._known = set().union(*map(listening_ports, pids))  # health, metrics
        self._ended = threading.Event()
        self.ports = set()  # those met, which were not there before

    def run(self):
        while not self._ended.is_set():
            for port in set().union(*map(listening_ports, self._pids)) - self._known:
                self._knock(port)

    def _knock(self, port):
        for words in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 64):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as knocker:
                self.ports.add(port)
                if words:
                    knocker.sendall(words)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


class FaultsTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_faults_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def until(self, what, ready):
        deadline = time.monotonic() + SETTLE_S
        while not ready():
            if time.monotonic() > deadline:
                self.fail(f"waited in vain for {what() if callable(what) else what}")
            time.sleep(0.05)

    def assert_settles(self, running, nodes, base):
        """The processes come back to the descriptors that they had, without arenas."""
        def more(node):
            return collections.Counter(descriptors(running.pid(node))) - base[node]

        for node in nodes:
            self.until(lambda node=node: f"{node} to close {more(node)}", lambda node=node: not more(node))

    def base(self, running, nodes=("node0", "node1")):
        """The agents' descriptors after a first load, which leaves what stays for good."""
        result = zc(running, "load", CHECKPOINT, "--world-size", 2, "--nodes", 2, "--release")
        self.assertEqual(result.code, 0, result)
        held = {}
        for node in nodes:
            self.until("no arenas", lambda node=node: not any(
                "memfd" in kind for kind in descriptors(running.pid(node))))
            held[node] = collections.Counter(descriptors(running.pid(node)))
        return held

    def expect_no_room(self, running, base, done, out, error):
        self.assertNotEqual(done.returncode, 0, done)
        self.assertIn(str(out), done.stderr)
        self.assertIn(error, done.stderr)
        self.assertEqual(list(out.iterdir()) if out.exists() else [], [])
        self.assert_settles(running, ("node0", "node1"), base)

    def test_a_file_that_grows_too_large_under_out(self):
        checkpoint = large_checkpoint(self.folder / "ckpt", 16 << 20)
        out = self.folder / "out"
        out.mkdir()

        def limit():
            # As a shell starts it: Python ignores the signal.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        with cluster.Cluster(num_agents=2) as running:
            base = self.base(running)
            done = subprocess.run(
                [str(cluster.BIN / "zerocast"), "--server", running.address, "load", str(checkpoint),
                 "--world-size", "2", "--nodes", "2", "--out", str(out)],
                capture_output=True, text=True, timeout=cluster.COMMAND_TIMEOUT_S, check=False,
                preexec_fn=limit)
            self.expect_no_room(running, base, done, out, os.strerror(errno.EFBIG))

    def test_a_full_disk_under_out(self):
        checkpoint = large_checkpoint(self.folder / "ckpt", 16 << 20)
        out = self.folder / "out"
        out.mkdir()
        # The disk is seen by the command alone; it goes with its namespace.
        script = ('mount -t tmpfs -o size=2m disk "$1" && shift && "$@"; code=$?; '
                  'ls -A "$OUT" | sed "s/^/left: /" >&2; exit $code')
        namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        environment = {**os.environ, "OUT": str(out)}
        can = subprocess.run([*namespace, script, "sh", str(out), "true"], capture_output=True,
                             env=environment, timeout=60, check=False)
        if can.returncode != 0:
            self.skipTest(f"no namespaces with mounts of their own: {can.stderr}")
        with cluster.Cluster(num_agents=2) as running:
            base = self.base(running)
            done = subprocess.run(
                [*namespace, script, "sh", str(out), str(cluster.BIN / "zerocast"), "--server",
                 running.address, "load", str(checkpoint), "--world-size", "2", "--nodes", "2", "--out",
                 str(out)], capture_output=True, text=True, env=environment,
                timeout=cluster.COMMAND_TIMEOUT_S, check=False)
            self.assertNotIn("left:", done.stderr)
            self.expect_no_room(running, base, done, out, os.strerror(errno.ENOSPC))

    def test_a_file_that_is_cut_while_it_is_read(self):
        for io in ("auto", "cached", "direct"):
            # One thread: another could open the file when it is cut already, and say that.
            flags = ["--io", io, "--read-rate", "4M", "--threads", "1"]
            with self.subTest(io=io), cluster.Cluster(num_agents=2, agent_args=flags) as running:
                checkpoint = large_checkpoint(self.folder / io, 64 << 20)
                file = checkpoint / "model.safetensors"
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                base = self.base(running)
                job = zc(running, "job", "submit", checkpoint, "--world-size", 4, "--node", "node0",
                         "--node", "node1", "--round-bytes", "1M", "--start")
                self.assertEqual(job.code, 0, job)
                job = job.json()["job"]

                def reads():
                    (load,) = zc(running, "job", "get", job).json()["loads"]
                    self.assertIn(load["state"], ("pending", "inspecting", "preparing", "loading"))
                    return all(node["bytes_read"] > 0 for node in load["nodes"])

                self.until("both nodes to read", reads)
                os.truncate(file, 5000)
                result = zc(running, "job", "watch", job, "--deadline", 60)
                self.assertEqual(result.code, 6, result)
                self.assertEqual(result.json()["error"]["reason"], "CHECKPOINT_CORRUPT")
                self.assertRegex(result.json()["error"]["message"],
                                 f"node node[01]: .*read {file} at offset [0-9]+: the file ends there")
                self.assert_settles(running, ("node0", "node1"), base)

    def test_an_agent_that_is_killed_while_it_sends(self):
        checkpoint = large_checkpoint(self.folder / "ckpt", 256 << 20)
        with cluster.Cluster(num_agents=2) as running:
            base = self.base(running)
            job = zc(running, "job", "submit", checkpoint, "--world-size", 4, "--node", "node0", "--node",
                     "node1", "--move", "broadcast", "--round-bytes", "32K", "--start")
            self.assertEqual(job.code, 0, job)
            job = job.json()["job"]

            def sends():
                (load,) = zc(running, "job", "get", job).json()["loads"]
                self.assertIn(load["state"], ("pending", "inspecting", "preparing", "loading"),
                              "the load ended before the agent could be killed")
                return any(node["name"] == "node1" and node["bytes_sent"] > 0
                           for node in load["nodes"])

            self.until("node1 to send", sends)
            os.kill(running.pid("node1"), signal.SIGKILL)
            running.processes.pop("node1").wait()
            result = zc(running, "job", "watch", job, "--deadline", 60)
            self.assertEqual(result.code, 5, result)
            self.assertIn("node1", result.json()["error"]["message"])
            self.assert_settles(running, ("node0",), base)
            self.until("the server to forget node1", lambda: len(running.agents()) == 1)
            running.start_agent(1)
            running.wait_for_agents(2)
            result = zc(running, "load", checkpoint, "--world-size", 4, "--nodes", 2, "--verify", "--release")
            self.assertEqual(result.code, 0, result)

    def test_a_port_scan_during_rendezvous(self):
        with cluster.Cluster(num_agents=2) as running:
            base = self.base(running)
            loads = 0
            with PortScan([running.pid("node0"), running.pid("node1")]) as scan:
                # A rendezvous is short: the scan meets the ports of some.
                while len(scan.ports) < 8 and loads < 100:
                    result = zc(running, "load", CHECKPOINT, "--world-size", 4, "--nodes", 2, "--verify",
                                "--release")
                    self.assertEqual(result.code, 0, result)
                    loads += 1
            print(f"{loads} loads, {len(scan.ports)} ports of theirs were knocked at")
            self.assertGreaterEqual(len(scan.ports), 8)
            self.assert_settles(running, ("node0", "node1"), base)

    def test_two_hundred_loads_leave_nothing_behind(self):
        def load(count):
            for _ in range(count):
                result = zc(running, "load", CHECKPOINT, "--world-size", 4, "--nodes", 2, "--release")
                self.assertEqual(result.code, 0, result)

        names = ("server", "node0", "node1")
        with cluster.Cluster(num_agents=2) as running:
            load(WARM_UP_LOADS)
            base = self.base(running, names)
            memory = {name: status_kb(running.pid(name), "VmRSS") for name in names}
            threads = {name: thread_count(running.pid(name)) for name in names}
            load(LOADS)
            self.assert_settles(running, names, base)
            for name in names:
                grown = status_kb(running.pid(name), "VmRSS") - memory[name]
                print(f"{name}: {memory[name]} kB resident, {grown:+} kB after {LOADS} loads")
                self.assertLess(grown, SLACK_KB, name)
                # Of an arena the resident size tells nothing.
                maps = pathlib.Path(f"/proc/{running.pid(name)}/maps").read_text(encoding="utf-8")
                self.assertNotIn("memfd:", maps, name)
                self.until("threads to end", lambda name=name: (
                    thread_count(running.pid(name)) <= threads[name] + SLACK_THREADS))


if __name__ == "__main__":
    unittest.main()
