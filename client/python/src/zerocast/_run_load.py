"""Has a checkpoint loaded for all ranks of a job, and takes this rank's shard over."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional

from zerocast._agreement import Ranks, nodes_of
from zerocast._client import Client, load_error
from zerocast._embedded import EmbeddedAgent, EmbeddedServer
from zerocast._errors import LoadError, ServerError
from zerocast._progress import Progress
from zerocast.attach import Shard, attach

# Regular expressions; the library initialises what is missing, and its report names it.
_MAY_BE_MISSING = [".*"]


@dataclass(frozen=True)
class Wanted:
    """What is to be loaded; alike on every rank.

    Attributes:
        checkpoint: the folder, an absolute path as the agents see it.
        spec: the model spec, as zerocast.spec.describe makes it.
        options: fields of the API's LoadOptions by name.
        config: the DeepSpeed config, without "auto" where there are no arguments; empty: none.
        arguments: the training arguments as JSON values; empty: none.
        model_config: the model's config.json as text.
        num_training_steps: of the whole training, where known.
        server: its address; None: one of this load alone is started.
        mode: as attach() takes it.
        load_timeout: seconds that the load may last.
    """

    checkpoint: str
    spec: Dict[str, Any]
    options: Dict[str, Any]
    config: Dict[str, Any] = field(default_factory=dict)
    arguments: Dict[str, Any] = field(default_factory=dict)
    model_config: str = ""
    num_training_steps: Optional[int] = None
    server: Optional[str] = None
    mode: str = "auto"
    load_timeout: float = 3600.0


@dataclass(frozen=True)
class Loaded:
    """What has come of it on this rank.

    Attributes:
        shard: the rank's; torch tensors.
        report: missing, unexpected (names), mismatched ((name, checkpoint's shape, model's shape)),
            conversion_errors ({target: text}): lists and dicts of JSON.
    """

    shard: Shard
    report: Dict[str, Any]


class Refused(LoadError):
    """The checkpoint does not fit the model; `report` is as in Loaded."""

    def __init__(self, error: LoadError, report: Dict[str, Any]) -> None:
        super().__init__(error.code, error.message, error.reason, error.rank)
        self.report = report


def run(ranks: Ranks, wanted: Wanted, timeout: float) -> Loaded:
    """Every rank calls it, with equal arguments.

    Args:
        ranks: all of the job; each has a shard. A load of its own: none was run by them.
        wanted: what to load.
        timeout: seconds that a call to the server, an agent's start, and the hand-over may take each.

    Raises:
        LoadError: the same on all ranks; whoever acknowledged a shard has lost it then.
        Refused: the load was refused for its weights.
    """
    _check_alike(ranks, wanted)
    nodes, ranks_of_node = nodes_of(ranks)
    local_rank = ranks.rank % ranks_of_node
    with _cluster(ranks, wanted, nodes, local_rank, timeout) as server:
        if ranks.rank == 0:
            with ranks.working("load"):
                try:
                    result = _load(server, wanted, nodes, ranks.world_size, timeout)
                except BaseException as error:
                    ranks.fail(error)
            ranks.give("load", result)
        else:
            result = ranks.result_of("load", 0)
        if "refused" in result:
            raise Refused(LoadError(rank=0, **result["refused"]), result["report"])
        with ranks.step("attach"):
            shard = attach(result["load"], ranks.rank, token=result["token"],
                           socket=result["sockets"][ranks.rank // ranks_of_node], mode=wanted.mode,
                           framework="torch", timeout=timeout, allow_unfilled=True)
    return Loaded(shard, result["report"])


def _check_alike(ranks: Ranks, wanted: Wanted) -> None:
    """Raises LoadError where ranks want different loads: rank 0 asks for all of them."""
    text = json.dumps([wanted.spec, wanted.options], sort_keys=True)
    said = ranks.exchange("wanted", [wanted.checkpoint, wanted.spec["architecture"],
                                     hashlib.sha256(text.encode()).hexdigest()])
    for rank, other in enumerate(said):
        if other != said[0]:
            raise LoadError(
                "FAILED_PRECONDITION", f"rank 0 loads {said[0][0]} into {said[0][1]}, and rank {rank} {other[0]} into "
                f"{other[1]}{'' if other[:2] != said[0][:2] else ' of another shape'}; all ranks load the same, in the "
                "same order", "INVALID_FIELDS")


@contextlib.contextmanager
def _cluster(ranks: Ranks, wanted: Wanted, nodes: List[str], local_rank: int, timeout: float) -> Iterator[str]:
    """The address of the server. Where none is given, one and its agents run within the block."""
    if wanted.server is not None:
        yield wanted.server
        return
    with contextlib.ExitStack() as stack:
        address = ""
        with ranks.step("start a server"):
            if ranks.rank == 0:
                alone = len(nodes) == 1
                server = stack.enter_context(EmbeddedServer(host="127.0.0.1" if alone else "0.0.0.0",
                                                            start_timeout=timeout))
                address = server.address
                if not alone:
                    address = f"{socket.gethostname()}:{address.rpartition(':')[2]}"
        address = ranks.exchange("server", address)[0]
        with ranks.step("start the agents"):
            if local_rank == 0:
                node = nodes[ranks.rank * len(nodes) // ranks.world_size]
                host = "127.0.0.1" if len(nodes) == 1 else socket.gethostname()
                stack.enter_context(EmbeddedAgent(address, node=node, roots=["/"], start_timeout=timeout,
                                                  extra_args=[f"--bulk-host={host}"]))
        yield address


def _load(server: str, wanted: Wanted, nodes: List[str], world_size: int, timeout: float) -> Dict[str, Any]:
    from zerocast._proto import job_pb2

    spec = job_pb2.JobSpec(
        display_name=f"{os.path.basename(wanted.checkpoint)} for {wanted.spec['architecture']}",
        checkpoint_path=wanted.checkpoint, model_spec_json=json.dumps(wanted.spec),
        deepspeed_config_json=json.dumps(wanted.config) if wanted.config else "",
        training_arguments_json=json.dumps(wanted.arguments) if wanted.arguments else "",
        model_config_json=wanted.model_config)
    if wanted.num_training_steps is not None:
        spec.num_training_steps = wanted.num_training_steps
    spec.topology.world_size = world_size
    spec.topology.nodes.extend(nodes)
    for name, value in wanted.options.items():
        setattr(spec.options, name, value)
    spec.options.allow_missing.extend(_MAY_BE_MISSING)
    progress = Progress(wanted.checkpoint)
    with Client(server, timeout=timeout) as client:
        job, token = client.create_job(spec)
        try:
            until = time.monotonic() + wanted.load_timeout
            for load in client.watch_load(client.create_load(job.name).name, until):
                progress.show(load)
        except BaseException:
            with contextlib.suppress(ServerError):
                client.cancel_job(job.name)
            raise
        finally:
            progress.close()
        error = load_error(load)
        if error is None:
            sockets = {shard.node_name: shard.agent_socket for shard in load.shards}
            return {"load": load.name, "token": token, "report": _report(load.report),
                    "sockets": [sockets[node] for node in nodes]}
        client.cancel_job(job.name)
        if error.reason != "WEIGHTS_INCOMPLETE":
            raise error
        return {"report": _report(load.report),
                "refused": {"code": error.code, "message": error.message, "reason": error.reason}}


def _report(report: Any) -> Dict[str, Any]:
    return {"missing": list(report.missing), "unexpected": list(report.unexpected),
            "mismatched": [[one.name, list(one.checkpoint_shape), list(one.model_shape)]
                           for one in report.mismatched],
            "conversion_errors": {one.target: one.message for one in report.conversion_errors}}

