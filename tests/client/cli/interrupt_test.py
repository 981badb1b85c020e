"""SIGINT and SIGTERM end every command that waits, soon, with exit code 130 or 143; nothing is left behind."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

CHECKPOINT = cluster.DATA / "checkpoints" / "mixtral"
# A second is promised (client/cli/interruption.h, kInterruptPatience); a loaded machine may add to it.
SOON_S = 10
# Every wait that a signal must cut short.
LONG_S = "600"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class SilentServer:
    """Takes connections and never answers; a context manager."""

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(SOON_S)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._connections = []
        return self

    def __exit__(self, *_):
        for each in [self._socket, *self._connections]:
            each.close()

    def await_caller(self):
        self._connections.append(self._socket.accept()[0])


class InterruptTest(unittest.TestCase):

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_interrupt_"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.runtime = self.folder / "run"  # where an embedded cluster has its sockets
        self.runtime.mkdir()

    def large_checkpoint(self):
        """One that takes a minute at a MiB a second."""
        folder = self.folder / "large"
        folder.mkdir()
        cluster.write_safetensors(folder / "model.safetensors",
                                  {f"w{k}": ("BF16", [8 << 20], bytes(16 << 20)) for k in range(4)})
        (folder / "config.json").write_text("{}")
        return folder

    def start(self, *args, stdin=subprocess.DEVNULL):
        environment = {k: v for k, v in os.environ.items() if k != "ZEROCAST_SERVER"}
        environment["XDG_RUNTIME_DIR"] = str(self.runtime)
        process = subprocess.Popen([str(cluster.BIN / "zerocast"), *map(str, args)], text=True, stdin=stdin,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.addCleanup(process.kill)
        return process

    def interrupt(self, process, how):
        """Returns what the command then wrote to stdout and stderr."""
        began = time.monotonic()
        if process.poll() is None:
            process.send_signal(how)
        out, errors = process.communicate(timeout=cluster.COMMAND_TIMEOUT_S)
        self.assertLess(time.monotonic() - began, SOON_S, errors)
        self.assertEqual(process.returncode, CODES[how], (out, errors))
        self.assertRegex(errors, rf"^zerocast: interrupted by {how.name}\b")
        self.assertEqual(list(self.runtime.iterdir()), [])
        return out, errors

    def await_it(self, what, ready):
        deadline = time.monotonic() + cluster.COMMAND_TIMEOUT_S
        while not ready():
            self.assertLess(time.monotonic(), deadline, f"waited in vain for {what}")
            time.sleep(0.02)

    def test_a_call_that_is_not_answered_ends(self):
        config = self.folder / "ds.json"
        config.write_text('{"train_batch_size": 8}')
        arguments = self.folder / "args.json"
        arguments.write_text("{}")
        batch = self.folder / "batch.jsonl"
        batch.write_text('{"id": "a", "config": {}}\n')
        job = [CHECKPOINT, "--world-size", "2"]
        commands = [
            ["agents"], ["job", "list"], ["job", "get", "jobs/1"], ["job", "get", "loads/1"],
            ["job", "watch", "loads/1"], ["job", "watch", "jobs/1"], ["job", "cancel", "jobs/1"],
            ["job", "delete", "jobs/1"], ["plan", *job], ["config", "lint", config],
            ["config", "resolve", "--ds-config", config, "--args", arguments],
            ["config", "resolve", "--batch", batch],
            ["config", "diff", config, config]]
        for k, command in enumerate(commands):
            how = (signal.SIGINT, signal.SIGTERM)[k % 2]
            with self.subTest(command=command, how=how), SilentServer() as server:
                process = self.start("--server", server.address, "--timeout", LONG_S, "--output", "json",
                                     *command)
                server.await_caller()
                out, _ = self.interrupt(process, how)
                self.assertIn("interrupted by", json.loads(out)["error"]["message"])

    def test_a_creation_that_is_not_answered_gets_its_grace(self):
        for command in (["load"], ["job", "submit", "--wait"]):
            with self.subTest(command=command), SilentServer() as server:
                process = self.start("--server", server.address, "--timeout", LONG_S, *command, CHECKPOINT,
                                     "--world-size", "2")
                server.await_caller()
                _, errors = self.interrupt(process, signal.SIGINT)
                self.assertIn("a job was being created: it may have been created, and cancelling it failed",
                              errors)

    def test_input_that_does_not_come_is_not_waited_for(self):
        for command in (["config", "lint", "-"], ["config", "resolve", "--batch", "-"]):
            for how in CODES:
                with self.subTest(command=command, how=how):
                    reader, writer = os.pipe()
                    process = self.start(*command, stdin=reader)
                    os.close(reader)
                    time.sleep(0.3)  # it may still be starting; interrupted then, it ends as well
                    self.interrupt(process, how)
                    os.close(writer)

    def test_a_load_that_the_command_started_on_a_server_is_cancelled(self):
        with cluster.Cluster(num_agents=2, agent_args=["--read-rate", "1M"]) as running:
            server = ["--server", running.address]
            job = [self.large_checkpoint(), "--world-size", "4", "--nodes", "2"]
            for k, (command, how) in enumerate(
                    [(["load", *job, "--out", self.folder / "out"], signal.SIGINT),
                     (["job", "submit", *job, "--wait"], signal.SIGTERM)]):
                process = self.start(*server, *command)

                def jobs():
                    shown = cluster.zerocast(*server, "--output", "json", "job", "list").json()["jobs"]
                    return {each["job"]: each["state"] for each in shown}

                self.await_it("the job", lambda: len(jobs()) > k)
                (name,) = [each for each, state in jobs().items() if state == "active"]
                _, errors = self.interrupt(process, how)
                self.assertEqual(errors, f"zerocast: interrupted by {how.name}; {name} was cancelled\n")
                self.assertEqual(set(jobs().values()), {"cancelled"})
        self.assertFalse((self.folder / "out").exists())

    def test_a_load_in_this_process_leaves_nothing_behind(self):
        out = self.folder / "deep" / "out"
        checkpoint = self.large_checkpoint()
        for how in CODES:
            with self.subTest(how=how):
                process = self.start("load", checkpoint, "--world-size", "4", "--nodes", "2", "--out", out,
                                     "--read-rate", "1M")
                self.await_it("the agents", lambda: len(list(self.runtime.glob("*/*.sock"))) == 3)
                time.sleep(0.5)  # it may still be starting; interrupted then, it ends as well
                _, errors = self.interrupt(process, how)
                self.assertEqual(errors, f"zerocast: interrupted by {how.name}\n")
                self.assertFalse(out.parent.exists())

    def test_a_signal_to_the_process_and_its_group_is_one(self):
        out = self.folder / "out"
        process = self.start("load", self.large_checkpoint(), "--world-size", "4", "--out", out,
                             "--read-rate", "1M")
        self.await_it("the agent", lambda: list(self.runtime.glob("*/node0.sock")))
        for _ in range(5):  # as timeout(1) does, and others that pass signals on
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        self.interrupt(process, signal.SIGINT)
        self.assertFalse(out.exists())

    def test_a_second_signal_ends_it_at_once(self):
        with SilentServer() as server:
            process = self.start("--server", server.address, "--timeout", LONG_S, "load", CHECKPOINT,
                                 "--world-size", "2")
            server.await_caller()
            process.send_signal(signal.SIGTERM)
            self.await_it("its second caller", lambda: self.cut_short(process))
            process.communicate()
        self.assertEqual(process.returncode, -signal.SIGTERM)

    @staticmethod
    def cut_short(process):
        process.send_signal(signal.SIGTERM)
        return process.poll() is not None


if __name__ == "__main__":
    unittest.main()
