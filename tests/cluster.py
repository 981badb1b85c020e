"""Runs the real binaries for tests: the command, a server, agents. Only the standard library.

ZC_BIN_DIR names the folder of the binaries, ZC_TEST_DATA the test data.
"""

import ctypes
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

BIN = pathlib.Path(os.environ["ZC_BIN_DIR"])
DATA = pathlib.Path(os.environ["ZC_TEST_DATA"])

# Generous: sanitizer builds on a loaded machine are ten times slower.
COMMAND_TIMEOUT_S = 120
START_TIMEOUT_S = 60


class Result:
    """What a command left: its exit code and both streams."""

    def __init__(self, completed):
        self.code = completed.returncode
        self.stdout = completed.stdout
        self.stderr = completed.stderr

    def json(self):
        return json.loads(self.stdout)

    def __repr__(self):
        return f"exit {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def zerocast(*args, timeout=COMMAND_TIMEOUT_S, env=None, stdin=b"", cwd=None):
    """Runs the zerocast command on the bytes of stdin and returns its Result, whatever the exit code.

    Loads go to the device that ZC_LOAD_DEVICE names, and have the DeepSpeed config of ZC_LOAD_CONFIG,
    if they are set.
    """
    if "load" in args:
        for flag, variable in (("--device", "ZC_LOAD_DEVICE"), ("--ds-config", "ZC_LOAD_CONFIG")):
            if os.environ.get(variable):
                args = (*args, flag, os.environ[variable])
    environment = {k: v for k, v in os.environ.items() if k != "ZEROCAST_SERVER"}
    environment.update(env or {})
    completed = subprocess.run([str(BIN / "zerocast"), *map(str, args)], input=stdin,
                               capture_output=True, timeout=timeout, env=environment, cwd=cwd, check=False)
    # Not text=True: the answers hold line ends of other kinds, which must stay as they are.
    completed.stdout, completed.stderr = completed.stdout.decode(), completed.stderr.decode()
    return Result(completed)


def num_gpus():
    """How many GPUs the driver shows, and why there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return 0, str(error)
    count = ctypes.c_int()
    errors = driver.cuInit(0), driver.cuDeviceGetCount(ctypes.byref(count))
    return count.value, f"CUDA's driver says {errors}"


def skip_without_gpus(number):
    """Where a test is for GPUs (ZC_NEEDS_GPU) and there are fewer, says so and ends the program with 77."""
    count, reason = num_gpus() if os.environ.get("ZC_NEEDS_GPU") else (number, "")
    if count < number:
        print(f"1 test skipped: needs {number} GPUs, a rank each, and there are {count} ({reason})")
        sys.exit(77)


def read_safetensors(path):
    """Returns ({name: (dtype, shape, bytes)}, metadata) of a file, by a parser of its own."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[8 + length + begin:8 + length + end])
    return tensors, metadata


def write_safetensors(path, tensors):
    """Writes {name: (dtype, shape, bytes)}."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def copy_checkpoint(source, target, num_files=1):
    """Copies a checkpoint folder; with num_files > 1 its tensors are dealt over so many files."""
    source, target = pathlib.Path(source), pathlib.Path(target)
    target.mkdir(parents=True)
    shutil.copy(source / "config.json", target / "config.json")
    tensors, _ = read_safetensors(source / "model.safetensors")
    if num_files == 1:
        write_safetensors(target / "model.safetensors", tensors)
        return target
    weight_map = {}
    for index in range(num_files):
        name = f"model-{index + 1:05d}-of-{num_files:05d}.safetensors"
        # Dealt in turn, so that the pieces of one fused target lie in different files.
        part = dict(list(tensors.items())[index::num_files])
        write_safetensors(target / name, part)
        weight_map.update({tensor: name for tensor in part})
    index_file = target / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


class Cluster:
    """One server and some agents as processes on loopback; a context manager."""

    def __init__(self, num_agents=2, server_args=(), agent_args=(), roots=("/",)):
        self._num_agents = num_agents
        self._server_args = list(server_args)
        self._agent_args = list(agent_args)
        self._roots = roots
        self.processes = {}
        self.address = None

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zc_cluster_"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def _spawn(self, name, *args):
        log = open(self.folder / f"{name}.log", "w", encoding="utf-8")
        self.processes[name] = subprocess.Popen(
            [str(arg) for arg in args], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()

    def _start(self):
        port_file = self.folder / "port"
        self._spawn("server", BIN / "zerocast-server", "--listen=127.0.0.1:0", "--store=memory",
                    f"--print-port-file={port_file}", *self._server_args)
        self._wait("the server's port", lambda: port_file.exists() and port_file.read_text().strip())
        self.address = f"127.0.0.1:{port_file.read_text().strip()}"
        for index in range(self._num_agents):
            self.start_agent(index)
        self.wait_for_agents(self._num_agents)

    def wait_for_agents(self, number):
        self._wait(f"{number} agents", lambda: len(self.agents()) == number)

    def start_agent(self, index, roots=None, extra=()):
        name = f"node{index}"
        self._spawn(name, BIN / "zerocast-agent", f"--server={self.address}", f"--node={name}",
                    f"--socket={self.folder}/{name}.sock", "--bulk-host=127.0.0.1",
                    *[f"--root={root}" for root in roots or self._roots], *self._agent_args, *extra)

    def agents(self):
        result = zerocast("--server", self.address, "--output", "json", "agents")
        return result.json()["agents"] if result.code == 0 else []

    def _wait(self, what, ready):
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self.log(name)}")
            if time.monotonic() > deadline:
                logs = "".join(f"\n[{name}] {self.log(name)}" for name in self.processes)
                raise RuntimeError(f"waited in vain for {what}{logs}")
            time.sleep(0.02)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def pid(self, name):
        return self.processes[name].pid

    def stop(self):
        """Ends everything; returns the exit codes by name."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        codes = {}
        for name, process in self.processes.items():
            try:
                codes[name] = process.wait(timeout=START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.processes = {}
        return codes
