"""A typed client of the control plane: jobs, loads, checkpoints, configs, agents."""

from __future__ import annotations

import time
import uuid
from types import TracebackType
from typing import Any, Iterator, List, Optional, Tuple, Type, TypeVar

import grpc
from google.protobuf.message import Message

from zerocast import _call_errors
from zerocast._errors import ServerError
from zerocast._proto import agent_pb2, checkpoint_pb2, config_pb2, job_pb2, load_pb2, server_info_pb2

# Every method is safe to repeat: reads change nothing, creations carry a request_id, cancelling
# twice is cancelling once. Watches are resumed by watch_load itself.
SERVICE_CONFIG = """{
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{
      "name": [
        {"service": "zerocast.v1.ConfigService"},
        {"service": "zerocast.v1.JobService"},
        {"service": "zerocast.v1.LoadService"},
        {"service": "zerocast.v1.CheckpointService"},
        {"service": "zerocast.v1.ServerInfoService"},
        {"service": "zerocast.v1.AgentService", "method": "ListAgents"}
      ],
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]
      }
    }, {
      "name": [
        {"service": "zerocast.v1.JobService", "method": "WatchJob"},
        {"service": "zerocast.v1.LoadService", "method": "WatchLoad"}
      ]
    }],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1}
  }"""
# A plan with all its digests can be large, and the spec of a job comes back with it.
_MAX_MESSAGE_BYTES = 256 << 20
# Error details: zerocast's servers keep below gRPC's default, 8 KiB, others may not.
_MAX_METADATA_BYTES = 64 << 10
_OPTIONS = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # the server bounds what it reads
    ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_PAGE_SIZE = 200
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds
_TERMINAL = (load_pb2.LOAD_STATE_READY, load_pb2.LOAD_STATE_FAILED, load_pb2.LOAD_STATE_CANCELLED)
_AWAY = grpc.StatusCode.UNAVAILABLE
_SILENT = grpc.StatusCode.DEADLINE_EXCEEDED

_Answer = TypeVar("_Answer", bound=Message)


def new_request_id() -> str:
    """A random request_id, for a caller that must know it although the answer of its creation is
    lost: the same creation under the same id gives what was made."""
    return uuid.uuid4().hex


def is_terminal(load: load_pb2.Load) -> bool:
    """Whether the load's state (ready, failed or cancelled) never changes again."""
    return load.state in _TERMINAL


def load_error(load: load_pb2.Load) -> Optional[ServerError]:
    """The error that a failed or cancelled load stands for, or one that is ready and whose shards
    were freed before anybody took them; None for every other one."""
    if load.state == load_pb2.LOAD_STATE_CANCELLED:
        return ServerError("CANCELLED", f"{load.name} was cancelled", "CANCELLED")
    if load.state == load_pb2.LOAD_STATE_FAILED:
        return _call_errors.from_failure(load.failure)
    cancelled = grpc.StatusCode.CANCELLED.value[0]
    if load.state == load_pb2.LOAD_STATE_READY and load.HasField("freed") and load.freed.code != cancelled:
        return _call_errors.from_failure(load.freed, load.name)
    return None


class Client:
    """Calls to one server. Thread-safe; a context manager that closes the connection.

        with Client("10.0.0.1:50051") as client:
            job, attach_token = client.create_job(spec)
            load = client.create_load(job.name)
            for load in client.watch_load(load.name, time.monotonic() + 1800):
                ...

    Every call has a deadline (`timeout` seconds, retries included) and is retried a few times with
    growing pauses where the server was not reached: creations too, since each carries a
    request_id, made here when the caller gives none.

    All methods raise ServerError: the server's, with its reason and violations; code UNAVAILABLE
    where the server was not reached and DEADLINE_EXCEEDED where it did not answer in time, which
    name its address; and what else gRPC ends a call with. ValueError is for the constructor alone.
    """

    def __init__(self, server: str, *, timeout: float = 30.0, deadline: Optional[float] = None) -> None:
        """Does not connect yet.

        Args:
            server: "host:port" or "unix:/path".
            timeout: of one call, in seconds; positive.
            deadline: on the clock of time.monotonic(), in seconds: no call goes on beyond it, and
                none begins after it. None: there is none.
        """
        if not server:
            raise ValueError("server: the address is empty; give host:port or unix:/path")
        if not timeout > 0:
            raise ValueError(f"timeout: must be positive, not {timeout!r}")
        self.server = server
        self.timeout = timeout
        self.deadline = deadline
        self._channel = grpc.insecure_channel(server, options=_OPTIONS)

    def with_limits(self, timeout: float, deadline: Optional[float] = None) -> "Client":
        """A client over the same connection with other limits: for the call that must still be
        made when time is up, such as a cancel. It ends with the connection of this one."""
        other = Client.__new__(Client)
        other.server, other.timeout, other.deadline = self.server, timeout, deadline
        other._channel = self._channel
        return other

    def close(self) -> None:
        """Ends the calls in progress and the connection. A closed client stays closed."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def _limit(self) -> float:
        """Seconds that a call may take now."""
        left = float("inf") if self.deadline is None else self.deadline - time.monotonic()
        return min(self.timeout, left)

    def _unary(self, service: str, method: str, answer: Type[_Answer]) -> Any:
        return self._channel.unary_unary(f"/zerocast.v1.{service}/{method}",
                                         request_serializer=lambda message: message.SerializeToString(),
                                         response_deserializer=answer.FromString)

    def _call(self, service: str, method: str, request: Message, answer: Type[_Answer]) -> _Answer:
        within = self._limit()
        if within <= 0:
            raise _call_errors.time_is_up(method, self.server)
        try:
            result: _Answer = self._unary(service, method, answer)(request, timeout=within)
            return result
        except grpc.RpcError as error:
            raise _call_errors.from_call(error, method, self.server, within) from error

    # ---- configs ----

    def resolve_config(self, request: config_pb2.ResolveConfigRequest) -> config_pb2.ResolveConfigResponse:
        """The config with every "auto" filled. FAILED_PRECONDITION (CONFIG_MISMATCH) lists all
        mismatches as violations; details too long for gRPC's metadata are cut, in
        batch_resolve_configs they are not."""
        return self._call("ConfigService", "ResolveConfig", request, config_pb2.ResolveConfigResponse)

    def batch_resolve_configs(
            self, requests: List[config_pb2.ResolveConfigRequest]) -> List[config_pb2.ResolveConfigResult]:
        """One result each, of at most 1000; what is wrong with one of them is in its result."""
        answer = self._call("ConfigService", "BatchResolveConfigs",
                            config_pb2.BatchResolveConfigsRequest(requests=requests),
                            config_pb2.BatchResolveConfigsResponse)
        return list(answer.results)

    def query_config(self, job: str, path: str = "") -> config_pb2.QueryConfigResponse:
        """What the resolved config of "jobs/ID" has at a path such as "zero_optimization.stage";
        "" is the whole. NOT_FOUND where there is no such job."""
        return self._call("ConfigService", "QueryConfig", config_pb2.QueryConfigRequest(job=job, path=path),
                          config_pb2.QueryConfigResponse)

    # ---- jobs ----

    def create_job(self, spec: job_pb2.JobSpec, *, request_id: str = "", validate_only: bool = False,
                   lease: Optional[float] = None) -> Tuple[job_pb2.Job, str]:
        """(the job, the secret that a training process shows to attach).

        With a `lease`, 1 to 86400 s, the job belongs to the caller: unless renew_job_lease() comes within that
        time, again and again, it expires, and agents free what they hold. Without one it lives until somebody
        ends it."""
        request = job_pb2.CreateJobRequest(spec=spec, request_id=request_id or new_request_id(),
                                           validate_only=validate_only)
        if lease is not None:
            request.lease.FromNanoseconds(round(lease * 1e9))
        answer = self._call("JobService", "CreateJob", request, job_pb2.CreateJobResponse)
        return answer.job, answer.attach_token

    def get_job(self, name: str) -> job_pb2.Job:
        """The job "jobs/ID" as it stands."""
        return self._call("JobService", "GetJob", job_pb2.GetJobRequest(name=name), job_pb2.GetJobResponse).job

    def list_jobs(self) -> List[job_pb2.Job]:
        """All jobs, oldest first."""
        jobs: List[job_pb2.Job] = []
        request = job_pb2.ListJobsRequest(page_size=_PAGE_SIZE)
        while True:
            page = self._call("JobService", "ListJobs", request, job_pb2.ListJobsResponse)
            jobs += page.jobs
            if not page.next_page_token:
                return jobs
            request.page_token = page.next_page_token

    def renew_job_lease(self, name: str) -> job_pb2.Job:
        """The job's lease lasts its whole length from now on. FAILED_PRECONDITION when the job is over, or
        has no lease."""
        return self._call("JobService", "RenewJobLease", job_pb2.RenewJobLeaseRequest(name=name),
                          job_pb2.RenewJobLeaseResponse).job

    def finish_job(self, name: str) -> job_pb2.Job:
        """The job is done: agents free what nobody took over for good. Finishing twice is no error;
        FAILED_PRECONDITION while a load of it runs, and of one that is over in another way."""
        return self._call("JobService", "FinishJob", job_pb2.FinishJobRequest(name=name),
                          job_pb2.FinishJobResponse).job

    def cancel_job(self, name: str) -> job_pb2.Job:
        """Cancels the job and its loads; agents free what they hold. Of a job that is over it changes
        nothing."""
        return self._call("JobService", "CancelJob", job_pb2.CancelJobRequest(name=name),
                          job_pb2.CancelJobResponse).job

    def delete_job(self, name: str, etag: str = "") -> None:
        """Deletes a job that is over, and its loads; with an etag only if it still has it."""
        self._call("JobService", "DeleteJob", job_pb2.DeleteJobRequest(name=name, etag=etag),
                   job_pb2.DeleteJobResponse)

    # ---- loads ----

    def create_load(self, job: str, *, request_id: str = "", validate_only: bool = False) -> load_pb2.Load:
        """Starts a load of "jobs/ID"."""
        request = load_pb2.CreateLoadRequest(job=job, request_id=request_id or new_request_id(),
                                             validate_only=validate_only)
        return self._call("LoadService", "CreateLoad", request, load_pb2.CreateLoadResponse).load

    def get_load(self, name: str) -> load_pb2.Load:
        """The load "loads/ID" as it stands."""
        return self._call("LoadService", "GetLoad", load_pb2.GetLoadRequest(name=name), load_pb2.GetLoadResponse).load

    def list_loads(self, job: str = "") -> List[load_pb2.Load]:
        """All loads of a job (of all jobs), oldest first, without digests."""
        loads: List[load_pb2.Load] = []
        request = load_pb2.ListLoadsRequest(job=job, page_size=_PAGE_SIZE)
        while True:
            page = self._call("LoadService", "ListLoads", request, load_pb2.ListLoadsResponse)
            loads += page.loads
            if not page.next_page_token:
                return loads
            request.page_token = page.next_page_token

    def cancel_load(self, name: str) -> load_pb2.Load:
        """Cancels a load; agents free what they hold. Cancelling twice is no error."""
        return self._call("LoadService", "CancelLoad", load_pb2.CancelLoadRequest(name=name),
                          load_pb2.CancelLoadResponse).load

    def plan_load(self, spec: job_pb2.JobSpec) -> load_pb2.PlanLoadResponse:
        """Dry run of a job that is never created. Where the weights would stop the load, the answer
        has the report and, instead of a plan, the failure."""
        return self._call("LoadService", "PlanLoad", load_pb2.PlanLoadRequest(spec=spec), load_pb2.PlanLoadResponse)

    def _reach(self, watch: str, name: str, until: float) -> Optional[ServerError]:
        """Whether the server is there, by a call that it answers at once: a stream says nothing
        where it waits for one that hangs. Tries again until `until`, or the timeout."""
        within = min(self.timeout, until - time.monotonic())
        gave_up = time.monotonic() + within
        pause, why = _FIRST_PAUSE, ""
        call = self._unary("LoadService", "GetLoad", load_pb2.GetLoadResponse)
        while True:
            left = gave_up - time.monotonic()
            if left <= 0:
                return _call_errors.server_away(watch, self.server, within, why)
            try:
                call(load_pb2.GetLoadRequest(name=name), timeout=left)
                return None
            except grpc.RpcError as error:
                failed: Any = error
                if failed.code() not in (_AWAY, _SILENT):
                    return None  # what is wrong the watch tells, too
                why = failed.details() or ""
                if failed.code() == _SILENT or gave_up - time.monotonic() <= pause:
                    return _call_errors.server_away(watch, self.server, within, why)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def watch_load(self, name: str, deadline: float) -> Iterator[load_pb2.Load]:
        """Follows a load: yields it now and after each change; the last one that comes is terminal.

        A failed load is no error of the watch: load_error() tells. A broken stream is opened again.
        What is not terminal may be left out where the caller is slow.

        Args:
            name: "loads/ID".
            deadline: on the clock of time.monotonic(), in seconds.

        Raises:
            ServerError: DEADLINE_EXCEEDED, which says in which state the load is and which nodes
                are late; UNAVAILABLE when the server was not there, or did not answer, for the
                client's timeout; else what the server says.
        """
        start = time.monotonic()
        until = deadline if self.deadline is None else min(deadline, self.deadline)
        within, watch = until - start, f"watch {name}"
        last: Optional[load_pb2.Load] = None
        pause = _FIRST_PAUSE
        open_stream: Any = self._channel.unary_stream(
            "/zerocast.v1.LoadService/WatchLoad",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=load_pb2.WatchLoadResponse.FromString)
        while True:
            away = self._reach(watch, name, until)
            if away is not None:
                if time.monotonic() < until:
                    raise away
                raise _call_errors.wait_expired(watch, self.server, within, last)
            stream = open_stream(load_pb2.WatchLoadRequest(name=name),
                                 timeout=max(until - time.monotonic(), 0.001))
            ended: Any = None
            try:
                for response in stream:
                    pause, last = _FIRST_PAUSE, response.load
                    yield response.load
                    if is_terminal(response.load):
                        return
            except grpc.RpcError as error:
                ended = error
            finally:
                stream.cancel()
            # A server that stops ends its streams with UNAVAILABLE, or orderly.
            again = ended is None or ended.code() == _AWAY
            if not again and ended.code() != _SILENT:
                raise _call_errors.from_call(ended, "WatchLoad", self.server, within) from ended
            if not again or until - time.monotonic() <= pause:
                why = "" if ended is None or not again else ended.details() or ""
                raise _call_errors.wait_expired(watch, self.server, within, last, why)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    # ---- DeepSpeed checkpoints that jobs have written ----

    def register_checkpoint(self, job: str, path: str, tag: str = "", *, pinned: bool = False, request_id: str = "",
                            validate_only: bool = False) -> checkpoint_pb2.Checkpoint:
        """Registers what "jobs/ID" has saved, after an agent has looked at it; an incomplete one is
        registered as such (`complete`, `problem`). What a job registers again is the same
        checkpoint while its files are the same.

        Args:
            path: the folder that training saves to, absolute, as the agents see it.
            tag: "": the one that the folder's file `latest` names.

        Raises:
            ServerError: UNAVAILABLE (NOT_ENOUGH_AGENTS) without an agent that looks; NOT_FOUND
                (CHECKPOINT_NOT_FOUND) where there is no such folder.
        """
        request = checkpoint_pb2.RegisterCheckpointRequest(
            checkpoint=checkpoint_pb2.Checkpoint(job=job, path=path, tag=tag, pinned=pinned),
            request_id=request_id or new_request_id(), validate_only=validate_only)
        return self._call("CheckpointService", "RegisterCheckpoint", request,
                          checkpoint_pb2.RegisterCheckpointResponse).checkpoint

    def get_checkpoint(self, name: str, *, verify: bool = False) -> checkpoint_pb2.Checkpoint:
        """The checkpoint "checkpoints/ID" as of the last look; with `verify` an agent looks first."""
        return self._call("CheckpointService", "GetCheckpoint",
                          checkpoint_pb2.GetCheckpointRequest(name=name, verify=verify),
                          checkpoint_pb2.GetCheckpointResponse).checkpoint

    def list_checkpoints(self, job: str = "", path: str = "", *,
                         verify: bool = False) -> List[checkpoint_pb2.Checkpoint]:
        """All checkpoints of a job (of all jobs) in a folder (in all), those registered last first."""
        checkpoints: List[checkpoint_pb2.Checkpoint] = []
        request = checkpoint_pb2.ListCheckpointsRequest(job=job, path=path, verify=verify, page_size=_PAGE_SIZE)
        while True:
            page = self._call("CheckpointService", "ListCheckpoints", request, checkpoint_pb2.ListCheckpointsResponse)
            checkpoints += page.checkpoints
            if not page.next_page_token:
                return checkpoints
            request.page_token = page.next_page_token

    def pin_checkpoint(self, name: str) -> checkpoint_pb2.Checkpoint:
        """Keeps a checkpoint from being pruned. Pinning twice is no error."""
        return self._call("CheckpointService", "PinCheckpoint", checkpoint_pb2.PinCheckpointRequest(name=name),
                          checkpoint_pb2.PinCheckpointResponse).checkpoint

    def unpin_checkpoint(self, name: str) -> checkpoint_pb2.Checkpoint:
        """Ends pin_checkpoint. Unpinning twice is no error."""
        return self._call("CheckpointService", "UnpinCheckpoint", checkpoint_pb2.UnpinCheckpointRequest(name=name),
                          checkpoint_pb2.UnpinCheckpointResponse).checkpoint

    def find_latest_checkpoint(self, job: str = "", path: str = "") -> checkpoint_pb2.FindLatestCheckpointResponse:
        """The newest complete checkpoint among those that a job has registered, or among all that a
        folder holds (name one of the two), after an agent has looked: never a torn one, whatever the
        file `latest` says; `difference` says where the two differ. NOT_FOUND where none is complete."""
        return self._call("CheckpointService", "FindLatestCheckpoint",
                          checkpoint_pb2.FindLatestCheckpointRequest(job=job, path=path),
                          checkpoint_pb2.FindLatestCheckpointResponse)

    def prune_checkpoints(self, job: str, keep_last: int, older_than: Optional[float] = None, *,
                          validate_only: bool = False) -> checkpoint_pb2.PruneCheckpointsResponse:
        """Forgets all but the `keep_last` newest complete checkpoints of a job; their files stay.
        With `older_than`, in seconds, only those registered longer ago; `validate_only`: says what it
        would forget. Pinned ones stay, and those that may be being written."""
        request = checkpoint_pb2.PruneCheckpointsRequest(job=job, keep_last=keep_last, validate_only=validate_only)
        if older_than is not None:
            request.older_than.FromNanoseconds(round(older_than * 1e9))
        return self._call("CheckpointService", "PruneCheckpoints", request, checkpoint_pb2.PruneCheckpointsResponse)

    def delete_checkpoint(self, name: str, etag: str = "") -> None:
        """Forgets a checkpoint that is not pinned; its files stay. With an etag only if it still has it."""
        self._call("CheckpointService", "DeleteCheckpoint",
                   checkpoint_pb2.DeleteCheckpointRequest(name=name, etag=etag),
                   checkpoint_pb2.DeleteCheckpointResponse)

    # ---- the server and its agents ----

    def list_agents(self) -> List[agent_pb2.AgentInfo]:
        """The connected agents, by node name."""
        answer = self._call("AgentService", "ListAgents", agent_pb2.ListAgentsRequest(), agent_pb2.ListAgentsResponse)
        return list(answer.agents)

    def server_info(self) -> server_info_pb2.GetServerInfoResponse:
        """The server's version, limits and store."""
        return self._call("ServerInfoService", "GetServerInfo", server_info_pb2.GetServerInfoRequest(),
                          server_info_pb2.GetServerInfoResponse)
