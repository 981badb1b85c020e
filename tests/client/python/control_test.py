#!/usr/bin/env python3
"""zerocast.Client against a server whose answers are written here."""

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import grpc
from fake_server import FakeServer, bad_request, details, error_info

import zerocast
from zerocast import _client
from zerocast._proto import agent_pb2, checkpoint_pb2, job_pb2, load_pb2

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])


def soon(seconds=20.0):
    return time.monotonic() + seconds


def load(state, **fields):
    return load_pb2.Load(name="loads/1", state=state, **fields)


def seen(state, **fields):
    return load_pb2.WatchLoadResponse(load=load(state, **fields))


def get_load(_request, _context):
    return load_pb2.GetLoadResponse(load=load(load_pb2.LOAD_STATE_LOADING))


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class StubsTest(unittest.TestCase):

    def test_they_need_nothing_outside_the_package_and_warn_of_nothing(self):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c",
             "from zerocast._proto import agent_pb2, checkpoint_pb2, config_pb2, job_pb2, load_pb2, plan_pb2\n"
             "from zerocast._proto import server_info_pb2, types_pb2\n"
             "import pickle, sys\n"
             "assert pickle.loads(pickle.dumps(load_pb2.Load(name='x'))).name == 'x'\n"
             "assert config_pb2.ResolveConfigResult(status={'code': 5}).status.code == 5\n"
             "assert 'zerocast.v1' not in sys.modules"],
            capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_attaching_imports_no_grpc(self):
        done = subprocess.run([sys.executable, "-c", "import sys, zerocast; assert 'grpc' not in sys.modules; "
                               "zerocast.Client; assert 'grpc' in sys.modules; "
                               "assert all(getattr(zerocast, name) for name in zerocast.__all__)"],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


class ClientTest(unittest.TestCase):

    def test_the_service_config_is_that_of_the_library_in_cpp(self):
        text = (SOURCE / "client/cpp/client.cc").read_text(encoding="utf-8")
        self.assertEqual(_client.SERVICE_CONFIG, re.search(r'return R"\((.*?)\)";', text, re.DOTALL).group(1))

    def test_a_creation_is_repeated_under_one_request_id(self):
        ids = []

        def create(request, context):
            ids.append(request.request_id)
            if len(ids) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return job_pb2.CreateJobResponse(job=job_pb2.Job(name="jobs/1"), attach_token="secret")

        with FakeServer({"JobService/CreateJob": create}) as server, zerocast.Client(server.address) as client:
            job, token = client.create_job(job_pb2.JobSpec())
            self.assertEqual((job.name, token), ("jobs/1", "secret"))
            self.assertEqual(len(ids), 3)
            self.assertEqual(len(set(ids)), 1)
            self.assertTrue(ids[0])
            client.create_job(job_pb2.JobSpec())
            self.assertNotEqual(ids[3], ids[0])
            client.create_job(job_pb2.JobSpec(), request_id="mine")
            self.assertEqual(ids[4], "mine")

    def test_what_is_wrong_with_a_request_comes_whole(self):
        violations = (("spec.a", "is wrong"), ("spec.b", "too"))

        def create(_request, context):
            context.set_trailing_metadata(details(grpc.StatusCode.INVALID_ARGUMENT, "spec.a: is wrong",
                                                  error_info("INVALID_FIELDS"), bad_request(*violations)))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "spec.a: is wrong")

        with FakeServer({"JobService/CreateJob": create}) as server, zerocast.Client(server.address) as client:
            with self.assertRaises(zerocast.ServerError) as caught:
                client.create_job(job_pb2.JobSpec())
        error = caught.exception
        self.assertIsInstance(error, zerocast.ZerocastError)
        self.assertEqual((error.code, error.message, error.reason, error.violations),
                         ("INVALID_ARGUMENT", "spec.a: is wrong", "INVALID_FIELDS", violations))
        self.assertTrue(issubclass(zerocast.AttachError, zerocast.ZerocastError))

    def test_a_server_that_is_not_there_is_named(self):
        address = f"127.0.0.1:{closed_port()}"
        with zerocast.Client(address, timeout=5) as client, self.assertRaises(zerocast.ServerError) as caught:
            client.get_job("jobs/1")
        self.assertEqual((caught.exception.code, caught.exception.reason), ("UNAVAILABLE", "UNAVAILABLE"))
        self.assertIn(f"call GetJob of server {address} within 5s: the server was not reached (",
                      caught.exception.message)

    def test_a_server_that_does_not_answer_ends_by_the_timeout(self):
        release = threading.Event()

        def hang(_request, _context):
            release.wait(20)
            return job_pb2.GetJobResponse()

        with FakeServer({"JobService/GetJob": hang}) as server, \
                zerocast.Client(server.address, timeout=0.3) as client:
            started = time.monotonic()
            with self.assertRaises(zerocast.ServerError) as caught:
                client.get_job("jobs/1")
            release.set()
        self.assertLess(time.monotonic() - started, 10)
        self.assertEqual(caught.exception.reason, "DEADLINE_EXCEEDED")
        self.assertIn("within 0.3s: no answer came in that time", caught.exception.message)

    def test_no_call_begins_after_the_deadline(self):
        with FakeServer({}) as server, zerocast.Client(server.address, deadline=time.monotonic()) as client:
            with self.assertRaisesRegex(zerocast.ServerError, "call GetJob of server .*: not made, the time"):
                client.get_job("jobs/1")
            self.assertEqual(server.calls, [])
            later = client.with_limits(5.0)
            with self.assertRaises(zerocast.ServerError) as caught:
                later.get_job("jobs/1")
            self.assertEqual((caught.exception.code, caught.exception.reason), ("UNIMPLEMENTED", "UNSUPPORTED"))

    def test_a_large_answer_comes_through(self):
        text = "x" * (20 << 20)

        def get(_request, _context):
            return job_pb2.GetJobResponse(job=job_pb2.Job(resolved_config_json=text))

        with FakeServer({"JobService/GetJob": get}) as server, zerocast.Client(server.address) as client:
            self.assertEqual(len(client.get_job("jobs/1").resolved_config_json), len(text))

    def test_lists_go_on_to_the_last_page(self):
        def list_jobs(request, _context):
            page = int(request.page_token or 0)
            return job_pb2.ListJobsResponse(jobs=[job_pb2.Job(name=f"jobs/{page}")],
                                            next_page_token=str(page + 1) if page < 2 else "")

        with FakeServer({"JobService/ListJobs": list_jobs}) as server, zerocast.Client(server.address) as client:
            self.assertEqual([job.name for job in client.list_jobs()], ["jobs/0", "jobs/1", "jobs/2"])

    def test_agents_are_listed(self):
        def agents(_request, _context):
            return agent_pb2.ListAgentsResponse(agents=[agent_pb2.AgentInfo(node_name="a")])

        with FakeServer({"AgentService/ListAgents": agents}) as server, zerocast.Client(server.address) as client:
            self.assertEqual([agent.node_name for agent in client.list_agents()], ["a"])

    def test_an_address_or_timeout_of_nothing_is_refused(self):
        with self.assertRaisesRegex(ValueError, "server: the address is empty"):
            zerocast.Client("")
        with self.assertRaisesRegex(ValueError, "timeout: must be positive, not 0"):
            zerocast.Client("a:1", timeout=0)


class CheckpointsTest(unittest.TestCase):

    def ask(self, method, answer, call):
        """(what `call` of a client gives, the requests that came)."""
        path = f"CheckpointService/{method}"
        with FakeServer({path: lambda _request, _context: answer}) as server, zerocast.Client(server.address) as client:
            return call(client), [request for _, request in server.calls]

    def test_a_registration_is_repeated_under_one_request_id(self):
        ids = []

        def register(request, context):
            ids.append(request.request_id)
            if len(ids) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return checkpoint_pb2.RegisterCheckpointResponse(
                checkpoint=checkpoint_pb2.Checkpoint(name="checkpoints/1", tag=request.checkpoint.tag))

        with FakeServer({"CheckpointService/RegisterCheckpoint": register}) as server, \
                zerocast.Client(server.address) as client:
            made = client.register_checkpoint("jobs/1", "/run", "t", pinned=True)
            self.assertEqual((made.name, made.tag), ("checkpoints/1", "t"))
            request = server.calls[-1][1]
        self.assertEqual((len(ids), len(set(ids)), len(ids[0])), (3, 1, 32))
        self.assertEqual((request.checkpoint.job, request.checkpoint.path, request.checkpoint.pinned,
                          request.validate_only), ("jobs/1", "/run", True, False))

    def test_it_is_read_and_changed_by_name(self):
        one = checkpoint_pb2.Checkpoint(name="checkpoints/1")
        for method, answer, call in (
                ("GetCheckpoint", checkpoint_pb2.GetCheckpointResponse,
                 lambda client: client.get_checkpoint("checkpoints/1", verify=True)),
                ("PinCheckpoint", checkpoint_pb2.PinCheckpointResponse,
                 lambda client: client.pin_checkpoint("checkpoints/1")),
                ("UnpinCheckpoint", checkpoint_pb2.UnpinCheckpointResponse,
                 lambda client: client.unpin_checkpoint("checkpoints/1"))):
            got, (request,) = self.ask(method, answer(checkpoint=one), call)
            self.assertEqual((got, request.name), (one, "checkpoints/1"))
            self.assertTrue(method != "GetCheckpoint" or request.verify)
        got, (request,) = self.ask("DeleteCheckpoint", checkpoint_pb2.DeleteCheckpointResponse(),
                                   lambda client: client.delete_checkpoint("checkpoints/1", "e"))
        self.assertEqual((got, request.name, request.etag), (None, "checkpoints/1", "e"))

    def test_lists_come_page_by_page(self):
        def pages(request, _context):
            page = int(request.page_token or 0)
            name = f"{request.job} {request.path} {request.verify} {page}"
            return checkpoint_pb2.ListCheckpointsResponse(checkpoints=[checkpoint_pb2.Checkpoint(name=name)],
                                                          next_page_token=str(page + 1) if page < 2 else "")

        with FakeServer({"CheckpointService/ListCheckpoints": pages}) as server, \
                zerocast.Client(server.address) as client:
            self.assertEqual([each.name for each in client.list_checkpoints("jobs/1", "/run", verify=True)],
                             [f"jobs/1 /run True {page}" for page in range(3)])

    def test_the_newest_is_found_and_old_ones_are_pruned(self):
        found = checkpoint_pb2.FindLatestCheckpointResponse(latest_tag="t", differs=True, difference="why")
        got, (request,) = self.ask("FindLatestCheckpoint", found,
                                   lambda client: client.find_latest_checkpoint(path="/run"))
        self.assertEqual((got, request.job, request.path), (found, "", "/run"))
        for older_than, seconds in ((None, None), (90.5, 90.5), (0.0, 0.0)):
            _, (request,) = self.ask(
                "PruneCheckpoints", checkpoint_pb2.PruneCheckpointsResponse(),
                lambda client, age=older_than: client.prune_checkpoints("jobs/1", 2, age, validate_only=True))
            self.assertEqual((request.job, request.keep_last, request.validate_only), ("jobs/1", 2, True))
            age = request.older_than.ToMilliseconds() / 1000 if request.HasField("older_than") else None
            self.assertEqual(age, seconds)


class WatchTest(unittest.TestCase):

    def watch(self, answers, deadline=None, timeout=10.0):
        with FakeServer({"LoadService/GetLoad": get_load, **answers}) as server, \
                zerocast.Client(server.address, timeout=timeout) as client:
            states = []
            try:
                for one in client.watch_load("loads/1", deadline or soon()):
                    states.append(one.state)
            except zerocast.ServerError as error:
                return states, error
            return states, None

    def test_a_broken_stream_is_opened_again(self):
        opened = []

        def watch(_request, context):
            opened.append(1)
            if len(opened) == 1:
                yield seen(load_pb2.LOAD_STATE_PENDING)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
            if len(opened) == 2:
                return  # orderly, as a server that drains
            yield seen(load_pb2.LOAD_STATE_LOADING)
            yield seen(load_pb2.LOAD_STATE_READY)

        states, error = self.watch({"LoadService/WatchLoad": watch})
        self.assertIsNone(error)
        self.assertEqual(states, [load_pb2.LOAD_STATE_PENDING, load_pb2.LOAD_STATE_LOADING, load_pb2.LOAD_STATE_READY])
        self.assertEqual(len(opened), 3)

    def test_its_deadline_says_what_the_load_waits_for(self):
        done = threading.Event()

        def watch(_request, _context):
            yield seen(load_pb2.LOAD_STATE_LOADING, waits_for=["b"], nodes=[
                load_pb2.NodeProgress(node_name="b", stage=load_pb2.NODE_STAGE_LOADING, round=3, num_rounds=10)])
            done.wait(20)

        states, error = self.watch({"LoadService/WatchLoad": watch}, deadline=soon(0.5))
        done.set()
        self.assertEqual(states, [load_pb2.LOAD_STATE_LOADING])
        self.assertEqual((error.code, error.reason), ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"))
        self.assertRegex(error.message, r"watch loads/1 on server .*: after 0\.\d+s the load is LOADING and waits for "
                         r"node b \(LOADING, round 3 of 10\); see the agent's log there, or allow more time")

    def test_a_server_that_stays_away_ends_it_after_the_timeout(self):
        def watch(_request, context):
            yield seen(load_pb2.LOAD_STATE_PENDING)
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

        calls = []

        def get(request, context):
            calls.append(1)
            if len(calls) > 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "still gone")
            return get_load(request, context)

        states, error = self.watch({"LoadService/WatchLoad": watch, "LoadService/GetLoad": get}, timeout=1.0)
        self.assertEqual(states, [load_pb2.LOAD_STATE_PENDING])
        self.assertEqual(error.code, "UNAVAILABLE")
        self.assertIn("it gave no answer for 1s (", error.message)

    def test_what_the_server_says_of_the_watch_comes_as_it_is(self):
        def watch(_request, context):
            context.set_trailing_metadata(details(grpc.StatusCode.NOT_FOUND, "no such load", error_info("NOT_FOUND")))
            context.abort(grpc.StatusCode.NOT_FOUND, "no such load")
            yield

        states, error = self.watch({"LoadService/WatchLoad": watch})
        self.assertEqual((states, error.code, error.reason, error.message),
                         ([], "NOT_FOUND", "NOT_FOUND", "no such load"))

    def test_who_looks_away_leaves_no_stream(self):
        ended = threading.Event()

        def watch(_request, context):
            context.add_callback(ended.set)
            yield seen(load_pb2.LOAD_STATE_PENDING)
            ended.wait(20)

        with FakeServer({"LoadService/GetLoad": get_load, "LoadService/WatchLoad": watch}) as server, \
                zerocast.Client(server.address) as client:
            for one in client.watch_load("loads/1", soon()):
                self.assertEqual(one.state, load_pb2.LOAD_STATE_PENDING)
                break
            self.assertTrue(ended.wait(10))

    def test_the_error_of_a_load_that_ended(self):
        failure = {"code": grpc.StatusCode.DATA_LOSS.value[0], "message": "torn", "reason": "CHECKPOINT_CORRUPT"}
        error = zerocast.load_error(load(load_pb2.LOAD_STATE_FAILED, failure=failure))
        self.assertEqual((error.code, error.message, error.reason), ("DATA_LOSS", "torn", "CHECKPOINT_CORRUPT"))
        error = zerocast.load_error(load(load_pb2.LOAD_STATE_READY, freed=failure))
        self.assertEqual((error.code, error.message), ("DATA_LOSS", "loads/1: torn"))
        self.assertEqual(zerocast.load_error(load(load_pb2.LOAD_STATE_CANCELLED)).code, "CANCELLED")
        cancelled = {"code": grpc.StatusCode.CANCELLED.value[0]}
        self.assertIsNone(zerocast.load_error(load(load_pb2.LOAD_STATE_READY, freed=cancelled)))
        self.assertIsNone(zerocast.load_error(load(load_pb2.LOAD_STATE_LOADING)))


if __name__ == "__main__":
    print("grpcio", importlib.metadata.version("grpcio"), "protobuf", importlib.metadata.version("protobuf"))
    unittest.main(verbosity=2)
