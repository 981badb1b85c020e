"""What a failed call to a server says: the server's own words, or gRPC's with what to do."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from zerocast._errors import ServerError
from zerocast._proto import load_pb2, types_pb2

_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_MAX_NODES = 8  # that are named one by one; a cluster may have thousands

# code -> (reason, what happened, what to do)
_EXPLANATIONS = {
    "UNAVAILABLE": ("UNAVAILABLE", "the server was not reached",
                    "check the address, and that zerocast-server runs there"),
    "DEADLINE_EXCEEDED": ("DEADLINE_EXCEEDED", "no answer came in that time",
                          "allow more time, and see whether the server is overloaded or its store slow"),
    "CANCELLED": ("CANCELLED", "the call was given up before its answer came", "call again"),
    "UNIMPLEMENTED": ("UNSUPPORTED", "what answers there does not know this method",
                      "use client and server of one version, and check that it is a zerocast-server"),
    "RESOURCE_EXHAUSTED": ("RESOURCE_EXHAUSTED",
                           "a message was too large, or a limit of the connection reached",
                           "send less, or raise the receiver's limit"),
    "UNAUTHENTICATED": ("PERMISSION_DENIED", "the server, or a proxy before it, refused the caller",
                        "check the credentials"),
    "PERMISSION_DENIED": ("PERMISSION_DENIED", "the server, or a proxy before it, refused the caller",
                          "check the credentials"),
}
_OTHER = ("INTERNAL", "the call failed", "see the server's log")


def seconds(duration: float) -> str:
    """A time for people: "30s", "0.25s"."""
    return f"{round(max(duration, 0.0), 3):g}s"


def details_of(status: Any) -> Tuple[str, List[Tuple[str, str]]]:
    """(reason, violations) of a google.rpc.Status. Raises DecodeError."""
    reason, violations = "", []
    for detail in status.details:
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(request):
            violations += [(v.field, v.description) for v in request.field_violations]
    return reason, violations


def _details(error: Any) -> Tuple[str, List[Tuple[str, str]]]:
    """The same of what came with a failed call."""
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS:
            continue
        try:
            return details_of(status_pb2.Status.FromString(value))
        except DecodeError:
            break  # another system's details; the code and message still tell
    return "", []


def from_call(error: grpc.RpcError, method: str, address: str, within: float) -> ServerError:
    """The error of a failed call of `method` that had `within` seconds."""
    failed: Any = error  # what channels raise is a grpc.Call, too, which the type does not say
    code, text = failed.code().name, failed.details() or ""
    reason, violations = _details(failed)
    if reason:
        return ServerError(code, text, reason, violations)
    reason, what, advice = _EXPLANATIONS.get(code, _OTHER)
    if text:
        what += f" ({text})"
    return ServerError(code, f"call {method} of server {address} within {seconds(within)}: {what}; {advice}",
                       reason, violations)


def time_is_up(method: str, address: str) -> ServerError:
    """The error of a call that is not made, for the client's deadline is over."""
    return ServerError("DEADLINE_EXCEEDED", f"call {method} of server {address}: not made, the time for all calls "
                       "was over; allow more time", "DEADLINE_EXCEEDED")


def server_away(watch: str, address: str, within: float, why: str) -> ServerError:
    """The error of a wait whose server was not there, or did not answer, for `within` seconds."""
    because = f" ({why})" if why else ""
    return ServerError("UNAVAILABLE", f"{watch} on server {address}: it gave no answer for {seconds(within)}"
                       f"{because}; the load may go on unseen: watch it again once the server is there, or "
                       "allow a longer timeout", "UNAVAILABLE")


def _late(load: load_pb2.Load, name: str) -> str:
    """"b (LOADING, round 3 of 10)"."""
    for node in load.nodes:
        if node.node_name == name and node.stage != load_pb2.NODE_STAGE_UNSPECIFIED:
            stage = load_pb2.NodeStage.Name(node.stage).replace("NODE_STAGE_", "", 1)
            rounds = f", round {node.round} of {node.num_rounds}" if node.num_rounds > 0 else ""
            return f"{name} ({stage}{rounds})"
    return name


def _waits_for(load: load_pb2.Load) -> str:
    pending = load.state == load_pb2.LOAD_STATE_PENDING
    if not load.waits_for:
        if pending:
            return "enough agents"
        if load.state == load_pb2.LOAD_STATE_INSPECTING:
            return "the plan compiler of the server"
        return "its nodes"
    names = [_late(load, name) for name in load.waits_for[:_MAX_NODES]]
    if len(load.waits_for) > _MAX_NODES:
        names.append(f"and {len(load.waits_for) - _MAX_NODES} more")
    return ("the agent of " if pending else "node ") + ", ".join(names)


def wait_expired(watch: str, address: str, within: float, last: Optional[load_pb2.Load],
                 why: str = "") -> ServerError:
    """The error of a wait for a load that did not end within `within` seconds; `last` is what was
    seen of it, if anything was."""
    message = f"{watch} on server {address}: "
    if why:
        message = f"the server went away ({why}): {message}"
    if last is None:
        message += (f"the server told nothing of it within {seconds(within)}; check the address, and that "
                    "zerocast-server runs there")
    else:
        state = load_pb2.LoadState.Name(last.state).replace("LOAD_STATE_", "", 1)
        where = ("start the missing agents (zerocast agents lists those that are there)"
                 if last.state == load_pb2.LOAD_STATE_PENDING else "see the agent's log there")
        message += (f"after {seconds(within)} the load is {state} and waits for {_waits_for(last)}; {where}, or "
                    "allow more time")
    return ServerError("DEADLINE_EXCEEDED", message, "DEADLINE_EXCEEDED")


def from_failure(failure: types_pb2.Failure, prefix: str = "") -> ServerError:
    """The error that a v1.Failure stands for."""
    message = f"{prefix}: {failure.message}" if prefix else failure.message
    return ServerError(_CODES.get(failure.code, "UNKNOWN"), message, failure.reason)
