"""Has a checkpoint loaded for all ranks of a job, and takes this rank's shard over."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple

from zerocast._agreement import Ranks, nodes_of
from zerocast._client import Client, load_error, new_request_id
from zerocast._embedded import EmbeddedAgent, EmbeddedServer
from zerocast._errors import LoadError
from zerocast._job import LoadJob
from zerocast._progress import Progress, logger
from zerocast.attach import Shard, attach

# Regular expressions; the library initialises what is missing, and its report names it.
_MAY_BE_MISSING = [".*"]


@dataclass(frozen=True)
class Wanted:
    """What is to be loaded; alike on every rank.

    Attributes:
        checkpoint: the folder, an absolute path as the agents see it.
        spec: the model spec, as zerocast.spec.describe makes it; empty: the model is what the checkpoint holds.
        options: fields of the API's LoadOptions by name.
        config: the DeepSpeed config, without "auto" where there are no arguments; empty: none.
        arguments: the training arguments as JSON values; empty: none.
        model_config: the model's config.json as text.
        num_training_steps: of the whole training, where known.
        server: its address; None: one of this load alone is started.
        mode: as attach() takes it.
        load_timeout: seconds that the load may last.
        variant: of the checkpoint's files, as in JobSpec.
        tag: of a folder that DeepSpeed's engine saved; empty: the folder is not read as such.
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
    variant: str = ""
    tag: str = ""


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
        super().__init__(error.code, error.message, error.reason)
        self.report = report
        self.is_agreed = True  # every rank raises it of the same load


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
    request = _agree_on_model(ranks, wanted)
    nodes, ranks_of_node = nodes_of(ranks)
    local_rank = ranks.rank % ranks_of_node
    with _cluster(ranks, wanted, nodes, local_rank, timeout) as (server, agent):
        job = LoadJob(server, _job_spec(wanted, nodes, ranks.world_size), request, timeout,
                      is_leased=wanted.server is not None)
        try:
            if ranks.rank == 0:
                with ranks.working("load", job.cancel):
                    result = _load(job, wanted, nodes)
                ranks.give("load", result)
            else:
                result = ranks.result_of("load", 0)
            if "refused" in result:
                raise Refused(LoadError(**result["refused"]), result["report"])
            with ranks.step("attach"):
                shard = attach(result["load"], ranks.rank, token=result["token"],
                               socket=result["sockets"][ranks.rank // ranks_of_node], mode=wanted.mode,
                               framework="torch", timeout=timeout, allow_unfilled=True,
                               world_size=ranks.world_size)
            if wanted.server is None and "device" in wanted.options:
                ways = ranks.exchange("ways of the hand-over", shard.way)
                if agent is not None and "cuda_ipc" in ways[ranks.rank:ranks.rank + ranks_of_node]:
                    logger.info("the agent of %s stays until the memory of its GPUs is returned: %s",
                                agent.node, shard.because)
                    agent.leave()
            if ranks.rank == 0:
                job.finish()
        except BaseException as error:
            # Shards that nobody took would stay with agents that outlive this. Rank 0 sees to it; where
            # it is lost one of each node, for a node may be lost.
            lost = isinstance(error, LoadError) and error.reason == "RANK_LOST" and error.rank == 0
            if wanted.server and (ranks.rank == 0 or (lost and (ranks.rank == 1 or local_rank == 0))):
                job.cancel()
            raise
    return Loaded(shard, result["report"])


def _agree_on_model(ranks: Ranks, wanted: Wanted) -> str:
    """The request_id of the load's job. Raises LoadError where the ranks have other models."""
    text = json.dumps([wanted.checkpoint, wanted.spec, wanted.options, wanted.variant, wanted.tag], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    by_rank = ranks.exchange("model", [digest, new_request_id() if ranks.rank == 0 else ""])
    other = next((rank for rank, (theirs, _) in enumerate(by_rank) if theirs != by_rank[0][0]), None)
    if other is not None:
        both = ranks.exchange("models", _summary(wanted) if ranks.rank in (0, other) else None)
        raise LoadError("FAILED_PRECONDITION", "the model is another one than on rank 0: "
                        f"{_difference(both[0], both[other])}; load the same on all ranks, in the same order",
                        "INVALID_FIELDS", rank=other)
    request: str = by_rank[0][1]
    return request


def _summary(wanted: Wanted) -> Dict[str, Any]:
    tensors = {tensor["name"]: f"{tensor['dtype']} {tensor['shape']}"
               for kind in ("params", "buffers") for tensor in wanted.spec.get(kind, [])}
    rest = {name: json.dumps(value, sort_keys=True) for name, value in wanted.spec.items()
            if name not in ("params", "buffers")}
    options = {name: str(value) for name, value in wanted.options.items()}
    return {"its ": {"checkpoint": wanted.checkpoint, "variant": wanted.variant or "none",
                     "tag": wanted.tag or "none", **rest, **options},
            "": tensors}


def _difference(first: Dict[str, Any], other: Dict[str, Any]) -> str:
    """The first things that differ, for people."""
    found: List[str] = []
    for prefix, values in first.items():
        names: Tuple[str, ...] = (*values, *(name for name in other[prefix] if name not in values))
        for name in names:
            here, there = values.get(name, "not there"), other[prefix].get(name, "not there")
            if here != there:
                found.append(f"{prefix}{name} is {there[:80]}, on rank 0 {here[:80]}")
    return "; ".join(found[:3]) + (f" (and {len(found) - 3} more)" if len(found) > 3 else "") or "its order"


@contextlib.contextmanager
def _cluster(ranks: Ranks, wanted: Wanted, nodes: List[str], local_rank: int,
             timeout: float) -> Iterator[Tuple[str, Optional[EmbeddedAgent]]]:
    """The address of the server, and the agent that this rank has started. Where no server is given,
    one and its agents run within the block."""
    if wanted.server is not None:
        yield wanted.server, None
        return
    agent = None
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
                agent = stack.enter_context(EmbeddedAgent(address, node=node, roots=["/"], start_timeout=timeout,
                                                          extra_args=[f"--bulk-host={host}"]))
        yield address, agent


def _job_spec(wanted: Wanted, nodes: List[str], world_size: int) -> Any:
    from zerocast._proto import job_pb2, types_pb2

    name = os.path.basename(wanted.checkpoint)
    spec = job_pb2.JobSpec(
        display_name=f"{name} for {wanted.spec['architecture']}" if wanted.spec else f"{name} {wanted.tag}",
        checkpoint_path=wanted.checkpoint, variant=wanted.variant, checkpoint_tag=wanted.tag,
        model_spec_json=json.dumps(wanted.spec) if wanted.spec else "",
        deepspeed_config_json=json.dumps(wanted.config) if wanted.config else "",
        training_arguments_json=json.dumps(wanted.arguments) if wanted.arguments else "",
        model_config_json=wanted.model_config)
    if wanted.tag:
        spec.checkpoint_format = types_pb2.CHECKPOINT_FORMAT_DEEPSPEED
    if wanted.num_training_steps is not None:
        spec.num_training_steps = wanted.num_training_steps
    spec.topology.world_size = world_size
    spec.topology.nodes.extend(nodes)
    for name, value in wanted.options.items():
        setattr(spec.options, name, value)
    spec.options.allow_missing.extend(_MAY_BE_MISSING)
    return spec


def _load(job: LoadJob, wanted: Wanted, nodes: List[str]) -> Dict[str, Any]:
    progress = Progress(wanted.checkpoint)
    with Client(job.server, timeout=job.timeout) as client:
        name, token = job.submit(client)
        try:
            until = time.monotonic() + wanted.load_timeout
            for load in client.watch_load(client.create_load(name).name, until):
                progress.show(load)
        finally:
            progress.close()
        error = load_error(load)
        if error is None:
            sockets = {shard.node_name: shard.agent_socket for shard in load.shards}
            return {"load": load.name, "token": token, "report": _report(load.report),
                    "sockets": [sockets[node] for node in nodes]}
        job.cancel()
        if error.reason != "WEIGHTS_INCOMPLETE":
            raise error
        return {"report": _report(load.report),
                "refused": {"code": error.code, "message": error.message, "reason": error.reason}}


def _report(report: Any) -> Dict[str, Any]:
    return {"missing": list(report.missing), "unexpected": list(report.unexpected),
            "mismatched": [[one.name, list(one.checkpoint_shape), list(one.model_shape)]
                           for one in report.mismatched],
            "conversion_errors": {one.target: one.message for one in report.conversion_errors}}

