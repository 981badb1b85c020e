#!/usr/bin/env python3
"""The job that a load makes for itself: who ends it, and when; a server whose answers the test writes, and a real one."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
import unittest
from unittest import mock

import grpc
from fake_server import FakeServer, details, error_info
from waiting import WAIT_S, wait_until

import zerocast
from zerocast import _run_load
from zerocast._agreement import Ranks, Store
from zerocast._job import LoadJob
from zerocast._proto import job_pb2, load_pb2, types_pb2

LEASE = 0.4  # of the server that is none


def refusal(code, reason):
    def refuse(_, context):
        context.set_trailing_metadata(details(code, "no", error_info(reason)))
        context.abort(code, "no")
    return refuse


def answers(**more):
    job = job_pb2.Job(name="jobs/1", state=job_pb2.JOB_STATE_ACTIVE)
    return {"JobService/CreateJob": lambda *_: job_pb2.CreateJobResponse(job=job, attach_token="secret"),
            "JobService/RenewJobLease": lambda *_: job_pb2.RenewJobLeaseResponse(job=job),
            "JobService/FinishJob": lambda *_: job_pb2.FinishJobResponse(job=job),
            "JobService/CancelJob": lambda *_: job_pb2.CancelJobResponse(job=job),
            **{name.replace("_", "/"): answer for name, answer in more.items()}}


class JobTest(unittest.TestCase):

    def setUp(self):
        patched = mock.patch("zerocast._job.LEASE_SECONDS", LEASE)
        patched.start()
        self.addCleanup(patched.stop)

    @contextlib.contextmanager
    def submitted(self, is_leased=True, **more):
        with FakeServer(answers(**more)) as server:
            job = LoadJob(server.address, job_pb2.JobSpec(), "request", 5.0, is_leased)
            with zerocast.Client(server.address) as client:
                self.assertEqual(job.submit(client), ("jobs/1", "secret"))
            yield server, job

    @staticmethod
    def count(server, method):
        return [name for name, _ in server.calls].count(method)

    def test_its_lease_is_renewed_until_it_is_done(self):
        with self.submitted() as (server, job):
            self.assertEqual(server.calls[0][1].lease.ToMilliseconds(), 1000 * LEASE)
            wait_until("six renewals", lambda: self.count(server, "RenewJobLease") >= 6)
            job.finish()
            seen = len(server.calls)
            self.assertEqual(self.count(server, "FinishJob"), 1)
            time.sleep(2 * LEASE)
            self.assertLessEqual(len(server.calls), seen + 1)  # one may have been on its way
            job.cancel()
            self.assertEqual(self.count(server, "CancelJob"), 0)

    def test_it_is_renewed_no_more_when_it_is_cancelled(self):
        with self.submitted() as (server, job):
            job.cancel()
            self.assertEqual(self.count(server, "CancelJob"), 1)
            first, again = (request for name, request in server.calls if name == "CreateJob")
            self.assertEqual(first, again)  # its request_id, too
            time.sleep(2 * LEASE)
            self.assertLessEqual(self.count(server, "RenewJobLease"), 1)

    def test_a_server_that_is_away_for_a_while_is_asked_again(self):
        refusals = iter(range(12))
        away = refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        renewed = []

        def renew(request, context):
            if next(refusals, None) is not None:
                away(request, context)
            renewed.append(request.name)
            return job_pb2.RenewJobLeaseResponse()

        with self.submitted(JobService_RenewJobLease=renew) as (_, job):
            wait_until("a renewal", lambda: renewed)
            job.finish()
            self.assertEqual(renewed[0], "jobs/1")

    def test_a_job_that_is_over_is_not_renewed(self):
        over = refusal(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        with self.submitted(JobService_RenewJobLease=over) as (server, _):
            wait_until("a renewal", lambda: self.count(server, "RenewJobLease"))
            time.sleep(2 * LEASE)
            self.assertEqual(self.count(server, "RenewJobLease"), 1)

    def test_what_hinders_its_end_is_logged_and_no_error(self):
        over = refusal(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        with self.submitted(JobService_FinishJob=over) as (_, job), self.assertLogs("zerocast", "WARNING") as logged:
            job.finish()
        self.assertRegex(logged.output[0], "finish jobs/1: .*; it expires within 0.4 s")

    def test_on_a_server_of_the_load_alone_it_has_no_lease(self):
        with self.submitted(is_leased=False) as (server, job):
            self.assertFalse(server.calls[0][1].HasField("lease"))
            job.finish()
            time.sleep(LEASE)
            self.assertEqual([name for name, _ in server.calls], ["CreateJob"])


class OnARealServerTest(unittest.TestCase):

    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="zc_", dir="/var/tmp")
        self.addCleanup(place.cleanup)
        patched = mock.patch.dict(os.environ, XDG_RUNTIME_DIR=place.name)
        patched.start()
        self.addCleanup(patched.stop)
        self.server = zerocast.EmbeddedServer(start_timeout=WAIT_S).start()
        self.addCleanup(self.server.stop)
        self.client = zerocast.Client(self.server.address)
        self.addCleanup(self.client.close)
        self.spec = job_pb2.JobSpec(checkpoint_path="/none", topology=types_pb2.Topology(world_size=1, num_nodes=1))

    def job(self, request):
        return LoadJob(self.server.address, self.spec, request, 30.0, is_leased=True)

    def states(self):
        return {job.name: job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_") for job in self.client.list_jobs()}

    def test_the_job_of_a_process_that_is_killed_expires_and_that_of_one_that_lives_does_not(self):
        script = ("import time, zerocast\n"
                  "from zerocast import _job\n"
                  "from zerocast._proto import job_pb2\n"
                  "_job.LEASE_SECONDS = 2.0\n"
                  f"spec = job_pb2.JobSpec.FromString({self.spec.SerializeToString()!r})\n"
                  f"job = _job.LoadJob({self.server.address!r}, spec, %r, 30.0, is_leased=True)\n"
                  f"with zerocast.Client({self.server.address!r}) as client:\n"
                  "    print(job.submit(client)[0], flush=True)\n"
                  "time.sleep(600)\n")
        with contextlib.ExitStack() as stack:
            owners, names = [], []
            for request in ("killed", "alive"):
                owner = subprocess.Popen([sys.executable, "-c", script % request], stdout=subprocess.PIPE, text=True)
                stack.callback(owner.stdout.close)
                stack.callback(owner.wait)
                stack.callback(owner.kill)
                owners.append(owner)
                names.append(owner.stdout.readline().strip())
            self.assertEqual(self.states(), dict.fromkeys(names, "ACTIVE"))
            os.kill(owners[0].pid, signal.SIGKILL)
            killed = time.monotonic()
            wait_until("the job to expire", lambda: self.states()[names[0]] == "EXPIRED")
            self.assertLess(time.monotonic() - killed, 20)
            time.sleep(max(0.0, killed + 4 - time.monotonic()))
            self.assertEqual(self.states(), {names[0]: "EXPIRED", names[1]: "ACTIVE"})
            # Another rank ends what the first one has made.
            self.client.cancel_job(names[1])
            self.assertEqual(self.states()[names[1]], "CANCELLED")

    def test_the_end_says_what_came_of_it(self):
        done, cancelled, never_made = map(self.job, "abc")
        names = [job.submit(self.client)[0] for job in (done, cancelled)]
        done.finish()
        cancelled.cancel()
        never_made.cancel()  # a creation that comes late finds it cancelled
        self.assertEqual([self.states()[name] for name in names], ["DONE", "CANCELLED"])
        self.assertEqual(sorted(self.states().values()), ["CANCELLED", "CANCELLED", "DONE"])
        with self.assertRaises(zerocast.ServerError) as caught:
            self.client.finish_job(names[1])
        self.assertEqual((caught.exception.code, caught.exception.reason), ("FAILED_PRECONDITION", "WRONG_STATE"))
        self.client.delete_job(names[0])

    def test_a_job_without_a_lease_is_the_users(self):
        job, _ = self.client.create_job(self.spec)
        self.assertFalse(job.HasField("lease"))
        with self.assertRaises(zerocast.ServerError):
            self.client.renew_job_lease(job.name)
        with self.assertRaises(zerocast.ServerError) as caught:
            self.client.create_job(self.spec, lease=0.1)
        self.assertEqual([field for field, _ in caught.exception.violations], ["lease"])


class FakeAgent:
    """Stands for EmbeddedAgent; `ends` lists how those that were started have ended."""

    ends = []

    def __init__(self, *_, node, **__):
        self.node = node
        self._is_left = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self._is_left:
            self.ends.append("stop")

    def leave(self):
        self._is_left = True
        self.ends.append("leave")


class RunTest(unittest.TestCase):
    """A load of one rank, on a server and agents that are none."""

    def run_one(self, way="memfd", attach_error=None, server_is_given=True, on_device=False):
        load = load_pb2.Load(name="loads/1", job="jobs/1", state=load_pb2.LOAD_STATE_READY)
        load.shards.add(node_name="here", agent_socket="/none")
        more = {"LoadService/CreateLoad": lambda *_: load_pb2.CreateLoadResponse(load=load),
                "LoadService/GetLoad": lambda *_: load_pb2.GetLoadResponse(load=load),
                "LoadService/WatchLoad": lambda *_: iter([load_pb2.WatchLoadResponse(load=load)])}
        shard = types.SimpleNamespace(way=way, because="because")
        spec = {"architecture": "A", "params": [], "buffers": []}
        options = {"device": types_pb2.DEVICE_CUDA} if on_device else {}
        FakeAgent.ends.clear()
        with FakeServer({**answers(), **more}) as server, mock.patch.dict(os.environ, ZEROCAST_NODE="here"), \
                mock.patch.object(_run_load, "attach", side_effect=attach_error, return_value=shard), \
                mock.patch.object(_run_load, "EmbeddedServer",
                                  lambda **_: contextlib.nullcontext(types.SimpleNamespace(address=server.address))), \
                mock.patch.object(_run_load, "EmbeddedAgent", FakeAgent):
            wanted = _run_load.Wanted("/ckpt", spec, options, server=server.address if server_is_given else None)
            try:
                return _run_load.run(Ranks(Store(), 0, 1, 5.0), wanted, 5.0)
            finally:
                self.calls = [name for name, _ in server.calls if "Job" in name]

    def test_a_job_on_the_users_server_is_done_when_all_have_their_shards(self):
        self.run_one()
        self.assertEqual(self.calls, ["CreateJob", "FinishJob"])
        self.assertEqual(FakeAgent.ends, [])

    def test_after_a_failure_it_is_cancelled(self):
        with self.assertRaises(zerocast.LoadError):
            self.run_one(attach_error=zerocast.AttachError("UNAVAILABLE", "gone"))
        self.assertEqual(self.calls, ["CreateJob", "CreateJob", "CancelJob"])

    def test_an_agent_of_the_load_stays_for_memory_by_a_legacy_handle_alone(self):
        for way, on_device, end in (("cuda_ipc", True, "leave"), ("cuda_vmm", True, "stop"), ("host_copy", True, "stop"),
                                    ("memfd", False, "stop")):
            with self.subTest(way=way):
                self.run_one(way, server_is_given=False, on_device=on_device)
                self.assertEqual(FakeAgent.ends, [end])
                self.assertEqual(self.calls, ["CreateJob"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
