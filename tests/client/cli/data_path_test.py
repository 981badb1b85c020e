"""How a load may read and how much memory and network it may use: flags of load and agent."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
LOAD = ["--output", "json", "load", CHECKPOINT, "--world-size", 4, "--nodes", 2, "--verify"]


REFUSED = "refused"


def load_where_direct_reads_are_refused(folder):
    """Loads from `folder`, with agents that want direct reads, or may choose them."""
    checkpoint = cluster.copy_checkpoint(CHECKPOINT, folder / "checkpoint")
    load = ["load", checkpoint, "--nodes", 2, "--verify", "--release", "--world-size"]
    test = unittest.TestCase()
    for io in ("direct", "auto"):
        with cluster.Cluster(num_agents=2, agent_args=["--io", io]) as running:
            shown = cluster.zerocast("--server", running.address, "--output", "json", *load, 4)
            test.assertEqual(shown.code, 0, shown)
            for node in shown.json()["nodes"]:
                test.assertEqual(node["direct_bytes"], 0)
                test.assertRegex(node["direct_refusal"],
                                 f"open {folder}/.*safetensors with O_DIRECT: Invalid argument")
            # Of another size: not from the memory of the first one.
            text = cluster.zerocast("--server", running.address, *load, 2)
            test.assertEqual(text.code, 0, text)
            test.assertRegex(text.stdout, f"not past the page cache: open {folder}/.*: Invalid argument")
            for node in ("node0", "node1"):
                test.assertIn("reading through the page cache", running.log(node))


class DataPathTest(unittest.TestCase):

    def load(self, *flags):
        result = cluster.zerocast(*LOAD, *flags)
        self.assertEqual(result.code, 0, result)
        return result.json()

    def test_buffers_stay_below_what_is_allowed_and_are_stated(self):
        for move in ("scatter", "broadcast"):
            shown = self.load("--max-buffer-memory", "1M", "--move", move)
            for node in shown["nodes"]:
                self.assertGreater(node["buffer_bytes"], 0)
                self.assertLessEqual(node["buffer_bytes"], 1 << 20)
        text = cluster.zerocast(*LOAD[2:], "--max-buffer-memory", "1M").stdout
        self.assertRegex(text, r"buffers of at most [0-9.]+ kB a node")

    def test_the_report_names_the_speed_of_the_stages(self):
        shown = self.load()
        self.assertEqual(sorted(shown["bytes_per_second"]), ["copy", "exchange", "read"])
        self.assertIn(shown["bottleneck"], ("read", "copy", "exchange"))
        for node in shown["nodes"]:
            self.assertIn(node["read_calls"], ("io_uring", "preadv"))

    def test_sizes_that_do_not_work_are_refused_in_the_users_words(self):
        for flag, size, said in (
                ("--max-buffer-memory", "x", '--max-buffer-memory: "x" is not a size; write for example 64M'),
                ("--max-buffer-memory", "4K",
                 '--max-buffer-memory: "4K" is less than the 1048576 bytes that a load needs at least; '
                 "give 1M or more, or leave it out for 256M"),
                ("--round-bytes", "7", '--round-bytes: "7" is less than the 8 bytes')):
            for command in (LOAD, ["plan", CHECKPOINT, "--world-size", 2]):
                result = cluster.zerocast(*command, flag, size)
                self.assertEqual(result.code, 2, result)
                self.assertIn(said, result.stderr)
                self.assertNotIn("spec.options", result.stderr)

    def test_a_refused_budget_names_one_that_works(self):
        for nodes in (1, 2):
            flags = [CHECKPOINT, "--world-size", 4, "--nodes", nodes, "--threads", 64, "--max-buffer-memory"]
            for command in ("plan", "load"):
                refused = cluster.zerocast(command, *flags, "1M")
                self.assertEqual(refused.code, 5, refused)
                self.assertRegex(refused.stderr, r"zerocast: node (node)?[01]: plan the buffers: \d+ bytes")
                (enough,) = re.findall(r"; allow (\d+M) there", refused.stderr)
                allowed = cluster.zerocast(command, *flags, enough)
                self.assertEqual(allowed.code, 0, allowed)

    def test_a_load_in_this_process_reads_as_its_flags_say(self):
        shown = self.load("--threads", 3, "--io", "direct", "--read-rate", "64M", "--send-rate", "64M")
        for node in shown["nodes"]:
            if not node["direct_refusal"]:
                self.assertEqual(node["direct_bytes"], node["bytes_read"])
        one, three = self.load("--threads", 1), shown
        # Each thread has its own buffers.
        self.assertLess(one["nodes"][0]["buffer_bytes"], three["nodes"][0]["buffer_bytes"])
        for flag, value, said in (("--read-rate", "fast", "--read-rate"),
                                  ("--send-rate", "5", "give 1M or more"),
                                  ("--threads", "257", "--threads"), ("--io", "never", "--io")):
            result = cluster.zerocast(*LOAD, flag, value)
            self.assertEqual(result.code, 2, result)
            self.assertIn(said, result.stderr)

    def test_a_slow_load_takes_as_long_as_its_rate_says(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_data_path_"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        cluster.write_safetensors(folder / "model.safetensors",
                                  {f"w{k}": ("BF16", [1 << 20], bytes(2 << 20)) for k in range(4)})
        (folder / "config.json").write_text("{}")
        result = cluster.zerocast("--output", "json", "load", folder, "--world-size", 2, "--read-rate", "4M",
                                  "--threads", 1)
        self.assertEqual(result.code, 0, result)
        # 8 MiB at 4 MiB a second; the last piece is not waited for.
        self.assertGreater(result.json()["elapsed_seconds"], 0.9)

    def test_the_agents_flags_are_refused_beside_a_server(self):
        for command in (LOAD, ["plan", CHECKPOINT, "--world-size", 2]):
            result = cluster.zerocast("--server", "127.0.0.1:1", *command, "--threads", 2,
                                      "--read-rate", "1G")
            self.assertEqual(result.code, 2, result)
            for flag in ("--threads", "--read-rate"):
                self.assertIn(f"{flag}: is for a load in this process", result.stderr)

    def test_an_agent_reads_as_its_flags_say(self):
        flags = ["--io", "direct", "--read-rate", "64M", "--send-rate", "64M", "--threads", "3"]
        with cluster.Cluster(num_agents=2, agent_args=flags) as running:
            result = cluster.zerocast("--server", running.address, *LOAD)
            self.assertEqual(result.code, 0, result)
            for node in result.json()["nodes"]:
                # All of it past the page cache, or a reason why not.
                if not node["direct_refusal"]:
                    self.assertEqual(node["direct_bytes"], node["bytes_read"])

    def test_where_direct_reads_are_refused_the_load_goes_on_and_the_report_says_so(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_data_path_"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        # ramfs has none.  It is seen by one process and its children, and goes with them.
        namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c",
                     'mount -t ramfs none "$1" && shift && exec "$@"', "sh", str(folder)]
        can = subprocess.run([*namespace, "true"], capture_output=True, timeout=60, check=False)
        if can.returncode != 0:
            self.skipTest(f"no namespaces with mounts of their own: {can.stderr}")
        inside = subprocess.run([*namespace, sys.executable, "-B", __file__, REFUSED, str(folder)],
                                capture_output=True, text=True, timeout=cluster.COMMAND_TIMEOUT_S, check=False)
        self.assertEqual(inside.returncode, 0, inside.stderr)

    def test_an_agents_own_limit_holds_and_its_error_names_the_figures(self):
        with cluster.Cluster(num_agents=2, agent_args=["--max-buffer-memory", "1M"]) as running:
            allowed = cluster.zerocast("--server", running.address, *LOAD)
            self.assertEqual(allowed.code, 0, allowed)
        # Threads that each need some.
        flags = ["--max-buffer-memory", "1M", "--threads", "64"]
        with cluster.Cluster(num_agents=2, agent_args=flags) as running:
            refused = cluster.zerocast("--server", running.address, *LOAD)
            self.assertEqual(refused.code, 5, refused)
            self.assertRegex(refused.stderr, r"plan the buffers: \d+ bytes \(\d+ to read")

    def test_rounds_are_as_small_as_the_smallest_agent_wants_them(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_data_path_"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        # 160 MB, of which each node gets half from the other.
        cluster.write_safetensors(folder / "model.safetensors", {
            f"w{index}": ("BF16", [5, 8 << 20], os.urandom(1 << 20) * 80) for index in range(2)})
        load = ["--output", "json", "load", folder, "--world-size", 2, "--nodes", 2, "--move", "broadcast"]
        with cluster.Cluster(num_agents=1) as running:
            running.start_agent(1, extra=["--max-buffer-memory", "64M"])
            running.wait_for_agents(2)
            result = cluster.zerocast("--server", running.address, *load, "--verify", "--release")
            self.assertEqual(result.code, 0, result)
            for node in result.json()["nodes"]:
                self.assertGreater(node["buffer_bytes"], 16 << 20)
                self.assertLessEqual(node["buffer_bytes"], 64 << 20)
            # Who says how large a round is gets that, or an error with the figures.
            refused = cluster.zerocast("--server", running.address, *load, "--round-bytes", "32M")
            self.assertEqual(refused.code, 5, refused)
            self.assertRegex(refused.stderr, r"with rounds of 33554432.*--round-bytes")

    def test_an_agents_flags_that_are_wrong_are_told_together(self):
        result = subprocess.run(
            [cluster.BIN / "zerocast-agent", "--server", "127.0.0.1:1", "--node", "n", "--root", "/",
             "--read-rate", "fast", "--send-rate", "x"], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 2, result)
        self.assertIn("read-rate", result.stderr)
        self.assertIn("send-rate", result.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == [REFUSED]:
        load_where_direct_reads_are_refused(pathlib.Path(sys.argv[2]))
    else:
        unittest.main()
