#!/usr/bin/env python3
"""zerocast.attach to shards on devices (device_hand_over_fixture).

On the stand-ins of tests/cuda_emu, which LD_LIBRARY_PATH puts in the driver's place, or, with --gpu,
on the machine's GPUs.

Exits 77, skipped, where there is no GPU.
"""

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SKIPPED = 77
ON_GPU = "--gpu" in sys.argv
if ON_GPU:
    sys.argv.remove("--gpu")
else:
    # The agent's device 0 is this process's device 1.
    os.environ["CUDA_VISIBLE_DEVICES"] = "1,0"

sys.path.insert(0, str(Path(os.environ["ZC_SOURCE_DIR"]) / "client/python/src"))

import zerocast  # noqa: E402
from zerocast import _cuda, _dlpack  # noqa: E402

DEVICE_FIXTURE = os.environ["ZC_DEVICE_HAND_OVER_FIXTURE"]
HOST_FIXTURE = os.environ["ZC_HAND_OVER_FIXTURE"]
LOAD, TOKEN = "loads/test", "secret"
NO_DESCRIPTORS = "cuMemCreate:1+:801"
NO_HANDLES_EITHER = NO_DESCRIPTORS + ",cudaIpcGetMemHandle:1+:801"
# name: code and bits in DLPack, offset, elements
PARTITIONS = {"bf16": (4, 16, 0, 8), "fp32": (2, 32, 64, 2), "fp8": (10, 8, 128, 5),
              "positions": (0, 64, 192, 5), "empty": (2, 16, 256, 0)}


def expected_bytes(rank, offset, count):
    return bytes((k + 100 * rank) % 251 for k in range(offset, offset + count))


class Emulator:
    """What the stand-ins can be told; tests/cuda_emu/cuda_emu.h."""

    class _Functions(ctypes.Structure):
        _fields_ = [(name, ctypes.c_void_p) for name in (
            "collectStats", "resetStats", "kernelStats", "fail", "failures", "lastReport",
            "objectsAlive", "seed")]

    def __init__(self):
        get = ctypes.CDLL("libcuda.so.1").emuForTests
        get.restype = ctypes.POINTER(self._Functions)
        functions = get().contents
        self.fail = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(functions.fail)
        self.objects_alive = ctypes.CFUNCTYPE(ctypes.c_uint64)(functions.objectsAlive)


class Capsule:
    """A DLPack capsule, as a framework takes it."""

    _pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi))
    _rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_SetName", ctypes.pythonapi))
    _used = b"used_dltensor"

    def __init__(self, array):
        self.capsule = array.__dlpack__(stream=1, max_version=(1, 0))
        self.address = Capsule._pointer(self.capsule, b"dltensor")
        self.managed = ctypes.cast(self.address,
                                   ctypes.POINTER(_dlpack._ManagedTensor)).contents
        self.tensor = self.managed.tensor

    def use(self):
        """From now on whoever took it calls the deleter."""
        Capsule._rename(self.capsule, Capsule._used)

    def delete(self):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.managed.deleter)(self.address)


def read_device(device, address, count):
    data = (ctypes.c_ubyte * count)()
    driver = _cuda.Driver.get()
    context = ctypes.c_void_p()
    driver.call("retain", "cuDevicePrimaryCtxRetain", ctypes.byref(context), driver.device(device))
    with _cuda._current(driver, context):
        driver.call("read", "cuMemcpyDtoH_v2", data, ctypes.c_ulonglong(address),
                    ctypes.c_size_t(count))
    driver.call("release", "cuDevicePrimaryCtxRelease_v2", driver.device(device))
    return bytes(data)


class DeviceAttachTest(unittest.TestCase):
    attach_arguments = {"framework": "dlpack"}

    @classmethod
    def setUpClass(cls):
        cls.emulator = None if ON_GPU else Emulator()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.socket = folder.name + "/agent.sock"
        self.agent = None

    def start(self, *, fail="", fixture=DEVICE_FIXTURE, arguments=()):
        """An agent of which these calls fail."""
        environment = {**os.environ, "EMU_FAIL": fail}
        if not ON_GPU:
            environment.pop("CUDA_VISIBLE_DEVICES")
        self.agent = subprocess.Popen([fixture, self.socket, *arguments], env=environment,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.stop)
        self.assertEqual(self.agent.stdout.readline(), "ready\n")

    def stop(self):
        if self.agent.stdin.closed:
            return
        self.agent.stdin.close()
        # 23: it leaks.
        self.assertEqual(self.agent.wait(timeout=60), 0)
        self.agent.stdout.close()

    def fail_here(self, plan):
        if self.emulator is None:
            self.skipTest("the stand-ins' alone: nothing else fails on demand")
        self.emulator.fail(plan.encode())
        self.addCleanup(self.emulator.fail, b"")

    def agent_fails(self, plan):
        if self.emulator is None:
            self.skipTest("the stand-ins' alone: nothing else fails on demand")
        self.start(fail=plan)

    def attach(self, rank=0, **arguments):
        arguments = {"token": TOKEN, "socket": self.socket, **self.attach_arguments, **arguments}
        return zerocast.attach(LOAD, rank, **arguments)

    def assert_refused(self, code, text, **arguments):
        with self.assertRaises(zerocast.AttachError) as caught:
            self.attach(**arguments)
        self.assertEqual(caught.exception.code, code, str(caught.exception))
        self.assertIn(text, str(caught.exception))

    def assert_is_the_shard(self, shard, rank, device):
        for name, (code, bits, offset, count) in PARTITIONS.items():
            with self.subTest(name=name):
                array = shard[name].array
                self.assertEqual(array.__dlpack_device__(), (2, device))
                capsule = Capsule(array)
                tensor = capsule.tensor
                self.assertEqual((tensor.device_type, tensor.device_id), (2, device))
                self.assertEqual((tensor.code, tensor.bits, tensor.lanes), (code, bits, 1))
                self.assertEqual((tensor.ndim, tensor.shape[0], tensor.strides[0]), (1, count, 1))
                self.assertEqual(tensor.byte_offset, 0)
                num_bytes = count * bits // 8
                self.assertEqual(array.nbytes, num_bytes)
                if num_bytes > 0:
                    self.assertEqual(read_device(device, tensor.data, num_bytes),
                                     expected_bytes(rank, offset, num_bytes))
        secondary = Capsule(shard["fp32"].secondary)
        self.assertEqual(read_device(device, secondary.tensor.data, 16), expected_bytes(rank, 96, 16))

    def number_of(self, agents_device):
        """Of a device of the agent, in this process."""
        return agents_device if ON_GPU else 1 - agents_device

    # ---- Ways ---------------------------------------------------------------------------------

    def test_by_a_descriptor(self):
        self.start()
        num_devices = len(_cuda.Driver.get().uuids())
        for rank in (0, 1):
            shard = self.attach(rank=rank)
            self.assertEqual((shard.way, shard.mode, shard.because), ("cuda_vmm", "shared", ""))
            number = self.number_of(rank if rank < num_devices else 0)
            self.assertEqual(shard.device, _cuda.Driver.get().uuids()[number])
            self.assert_is_the_shard(shard, rank, number)
        self.stop()
        self.assert_is_the_shard(shard, 1, number)  # the memory outlives the agent

    def test_by_a_legacy_handle(self):
        self.agent_fails(NO_DESCRIPTORS)
        before = len(os.listdir("/proc/self/fd"))
        shard = self.attach()
        self.assertEqual(shard.way, "cuda_ipc")
        self.assertRegex(shard.because, "^not cuda_vmm: allocate")
        self.assert_is_the_shard(shard, 0, self.number_of(0))
        self.assertGreater(len(os.listdir("/proc/self/fd")), before, "the connection stays")
        self.assertEqual(self.agent.stdout.readline(), "shared 0\n")
        del shard
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_by_way_of_host_memory(self):
        self.agent_fails(NO_HANDLES_EITHER)
        shard = self.attach()
        self.assertEqual(shard.way, "host_copy")
        self.assertRegex(shard.because, "not cuda_vmm: allocate.*; not cuda_ipc: make a legacy")
        self.assertNotIn("not locked", shard.because)
        self.assertEqual(shard.device, _cuda.Driver.get().uuids()[self.number_of(0)])
        self.assert_is_the_shard(shard, 0, self.number_of(0))
        other = self.attach(rank=1, device=_cuda.Driver.get().uuids()[self.number_of(0)])
        self.assert_is_the_shard(other, 1, self.number_of(0))

    def test_what_cannot_be_imported_is_copied(self):
        self.start()
        self.fail_here("cuMemImportFromShareableHandle:1")
        shard = self.attach()
        self.assertEqual(shard.way, "cuda_ipc")
        self.assertRegex(shard.because, "^not cuda_vmm: the process cannot: import 16 bytes")
        self.assert_is_the_shard(shard, 0, self.number_of(0))

    def test_what_cannot_be_imported_nor_opened_is_copied_to_the_host(self):
        self.start()
        self.fail_here("cuMemImportFromShareableHandle:1,cuIpcOpenMemHandle:1")
        shard = self.attach()
        self.assertEqual(shard.way, "host_copy")
        self.assertRegex(shard.because, "^not cuda_vmm: the process cannot: import 16 bytes.*"
                         "; not cuda_ipc: the process cannot: open 16 bytes")
        self.assert_is_the_shard(shard, 0, self.number_of(0))

    def test_a_handle_that_cannot_be_opened_is_copied(self):
        self.agent_fails(NO_DESCRIPTORS)
        self.fail_here("cuIpcOpenMemHandle:1")
        shard = self.attach()
        self.assertEqual(shard.way, "host_copy")
        self.assertRegex(shard.because, "; not cuda_ipc: the process cannot: open 16 bytes")
        self.assert_is_the_shard(shard, 0, self.number_of(0))

    def test_pages_that_cannot_be_locked_are_copied_all_the_same(self):
        self.agent_fails(NO_HANDLES_EITHER)
        self.fail_here("cuMemHostRegister:1")
        shard = self.attach()
        self.assertRegex(shard.because, "; copied from pages that are not locked: lock 256 bytes")
        self.assert_is_the_shard(shard, 0, self.number_of(0))

    def test_of_an_agent_without_gpus(self):
        self.start(fixture=HOST_FIXTURE, arguments=("--no-gpu",))
        uuid = _cuda.Driver.get().uuids()[-1]
        number = len(_cuda.Driver.get().uuids()) - 1
        for _ in range(2):
            shard = self.attach(mode="private", device=uuid)
            self.assertEqual((shard.way, shard.mode, shard.device), ("host_copy", "private", uuid))
            self.assertIn("--no-gpu", shard.because)
            self.assert_is_the_shard(shard, 0, number)
        shard = self.attach(rank=1, mode="shared")
        self.assertEqual(shard.mode, "shared")
        self.assert_is_the_shard(shard, 1, 0)

    @unittest.skipIf(importlib.util.find_spec("numpy") is None, "no numpy")
    def test_numpy_leaves_it_in_host_memory(self):
        self.start(fixture=HOST_FIXTURE, arguments=("--no-gpu",))
        shard = self.attach(framework="numpy")
        self.assertEqual((shard.way, shard.device), ("host_copy", ""))
        self.assertEqual(shard["fp32"].array.tobytes(), expected_bytes(0, 64, 8))

    def test_a_shard_for_the_host_comes_by_dlpack_too(self):
        self.start(fixture=HOST_FIXTURE)
        shard = self.attach(rank=1)
        self.assertEqual((shard.way, shard.device), ("memfd", ""))
        capsule = Capsule(shard["fp32"].array)
        tensor = capsule.tensor
        self.assertEqual((tensor.device_type, tensor.device_id), (1, 0))
        self.assertEqual(ctypes.string_at(tensor.data, 8), expected_bytes(1, 64, 8))

    # ---- How long the memory lives ------------------------------------------------------------

    def objects_alive(self):
        gc.collect()
        return 0 if self.emulator is None else self.emulator.objects_alive()

    def test_the_memory_lives_as_long_as_a_tensor_and_no_longer(self):
        self.start()
        before = self.objects_alive()
        shard = self.attach()
        capsule = Capsule(shard["positions"].array)
        capsule.use()
        unused = Capsule(shard["fp8"].array)
        with_shard = self.objects_alive()
        del shard
        if self.emulator is not None:
            self.assertGreater(with_shard, before)
            self.assertEqual(self.objects_alive(), with_shard)
        address, device = capsule.tensor.data, capsule.tensor.device_id
        self.assertEqual(read_device(device, address, 40), expected_bytes(0, 192, 40))
        capsule.delete()
        self.assertEqual(self.objects_alive(), with_shard, "the other capsule keeps it")
        del unused
        self.assertEqual(self.objects_alive(), before)
        with self.assertRaises(zerocast.AttachError):
            read_device(device, address, 40)

    def test_nothing_is_left_after_fifty(self):
        ways = ([("", "cuda_vmm")] if self.emulator is None else
                [("", "cuda_vmm"), (NO_DESCRIPTORS, "cuda_ipc"), (NO_HANDLES_EITHER, "host_copy")])
        before, descriptors = self.objects_alive(), len(os.listdir("/proc/self/fd"))
        for k in range(26):
            plan, way = ways[k % len(ways)]
            self.start(fail=plan)
            for rank in (0, 1):
                shard = self.attach(rank=rank)
                self.assertEqual(shard.way, way)
                Capsule(shard["bf16"].array)
                del shard
            self.stop()
        self.assertEqual(self.objects_alive(), before)
        self.assertEqual(len(_dlpack._exports), 0)
        self.assertEqual(len(os.listdir("/proc/self/fd")), descriptors)

    def test_a_call_that_fails_leaves_nothing(self):
        if self.emulator is None:
            self.skipTest("the stand-ins' alone: nothing else fails on demand")
        before = self.objects_alive()
        # Behind the trial: the shard is acknowledged, and lost.
        for call in ("cuMemImportFromShareableHandle:2", "cuMemAddressReserve:2", "cuMemMap:2",
                     "cuMemSetAccess:2"):
            with self.subTest(call=call):
                self.start()
                self.fail_here(call)
                with self.assertRaisesRegex(zerocast.AttachError, "import 256 bytes"):
                    self.attach()
                self.emulator.fail(b"")
                self.assert_refused("FAILED_PRECONDITION", "handed over")
                self.stop()
                self.assertEqual(self.objects_alive(), before)

    def test_tensors_that_outlive_python_call_nobody(self):
        self.start()
        # Registered first, so called last: after that of zerocast.
        script = (
            "import atexit, ctypes, os, sys\n"
            "def check():\n"
            "    print(ctypes.cast(address, ctypes.POINTER(M)).contents.deleter)\n"
            "atexit.register(check)\n"
            f"sys.argv = {['x', '--gpu'] if ON_GPU else ['x']}\n"
            "sys.path.insert(0, os.environ['ZC_TEST_FOLDER'])\n"
            "from device_attach_test import Capsule, LOAD, TOKEN, zerocast, _dlpack\n"
            "M = _dlpack._ManagedTensor\n"
            "s = zerocast.attach(LOAD, 0, token=TOKEN, socket=os.environ['ZC_SOCKET'],\n"
            "                    framework='dlpack')\n"
            "c = Capsule(s['fp32'].array); c.use(); address = c.address; del s\n")
        result = self.run_script(script)
        self.assertEqual((result.returncode, result.stdout), (0, "None\n"), result.stderr)

    # ---- Refusals -----------------------------------------------------------------------------

    def run_script(self, script, **environment):
        environment = {**os.environ, "ZC_TEST_FOLDER": str(Path(__file__).parent),
                       "ZC_SOCKET": self.socket, "EMU_LEAKS": "0", **environment}
        return subprocess.run([sys.executable, "-B", "-c", script], env=environment, timeout=60,
                              capture_output=True, text=True, check=False)

    ATTACH = ("import os, sys\n"
              "sys.path.insert(0, os.environ['ZC_SOURCE_DIR'] + '/client/python/src')\n"
              "import zerocast\n"
              "try:\n"
              "    zerocast.attach('loads/test', 0, token='secret', framework='dlpack',\n"
              "                    socket=os.environ['ZC_SOCKET'])\n"
              "except zerocast.AttachError as error:\n"
              "    print(error.code, error)\n")

    def test_without_a_driver_the_shard_stays(self):
        if ON_GPU:
            self.skipTest("there is a driver")
        self.start()
        result = self.run_script(self.ATTACH, LD_LIBRARY_PATH="")
        if "libcuda.so.1" not in result.stdout:
            self.skipTest("this machine has a driver")
        self.assertRegex(result.stdout, "^FAILED_PRECONDITION .*libcuda.so.1.*--device cpu")
        self.assert_is_the_shard(self.attach(), 0, self.number_of(0))

    def test_a_process_that_does_not_see_the_device_leaves_the_shard_there(self):
        if ON_GPU:
            self.skipTest("needs two devices")
        self.start()
        result = self.run_script(self.ATTACH, CUDA_VISIBLE_DEVICES="1")
        self.assertRegex(result.stdout, "^INVALID_ARGUMENT .*sees only GPU-.*CUDA_VISIBLE_DEVICES")
        self.assert_is_the_shard(self.attach(), 0, self.number_of(0))

    def test_arrays_of_the_host_are_refused_and_the_shard_stays(self):
        self.start()
        if importlib.util.find_spec("numpy"):
            self.assert_refused("FAILED_PRECONDITION", 'framework="torch"', framework="numpy")
        self.assert_refused("FAILED_PRECONDITION", "mode shared", mode="private")
        self.assert_is_the_shard(self.attach(), 0, self.number_of(0))

    def test_a_copy_is_not_made_unasked(self):
        self.start()
        array = self.attach()["fp32"].array
        with self.assertRaises(BufferError):
            array.__dlpack__(copy=True)
        with self.assertRaises(BufferError):
            array.__dlpack__(dl_device=(1, 0))
        with self.assertRaisesRegex(TypeError, "reshape"):
            array.reshape((2, 1))

    @unittest.skipUnless(ON_GPU and importlib.util.find_spec("torch"), "no torch with a GPU")
    def test_torch_takes_them_without_a_copy(self):
        import torch

        self.start()
        shard = self.attach(framework="torch")
        tensors = {name: shard[name].array for name in ("bf16", "fp32", "fp8", "positions")}
        self.assertEqual(tensors["bf16"].dtype, torch.bfloat16)
        self.assertEqual(tensors["fp8"].dtype, torch.float8_e4m3fn)
        self.assertEqual(tensors["fp32"].data_ptr() - tensors["bf16"].data_ptr(), 64)
        for name, tensor in tensors.items():
            _, bits, offset, count = PARTITIONS[name]
            self.assertTrue(tensor.is_cuda)
            self.assertEqual(bytes(tensor.view(torch.uint8).cpu().tolist()),
                             expected_bytes(0, offset, count * bits // 8))
        tensors["fp32"].fill_(2.0)
        self.assertEqual((tensors["fp32"] * 2).tolist(), [4.0, 4.0])


if __name__ == "__main__":
    if ON_GPU:
        try:
            if not _cuda.Driver.get().uuids():
                raise zerocast.AttachError("FAILED_PRECONDITION", "no device")
        except zerocast.AttachError as error:
            print(f"skipped: {error}")
            sys.exit(SKIPPED)
    unittest.main()
