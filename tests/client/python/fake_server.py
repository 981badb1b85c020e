"""A server of zerocast.v1 whose answers a test writes, on a free port of loopback."""

import concurrent.futures

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from zerocast._proto import agent_pb2, checkpoint_pb2, config_pb2, job_pb2, load_pb2

_MODULES = {"JobService": job_pb2, "LoadService": load_pb2, "ConfigService": config_pb2, "AgentService": agent_pb2,
            "CheckpointService": checkpoint_pb2}


def details(code, message, *infos):
    """The trailing metadata of a failure that carries google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for info in infos:
        packed = any_pb2.Any()
        packed.Pack(info)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def error_info(reason):
    return error_details_pb2.ErrorInfo(reason=reason, domain="zerocast.dev")


def bad_request(*violations):
    request = error_details_pb2.BadRequest()
    for field, description in violations:
        request.field_violations.add(field=field, description=description)
    return request


class FakeServer(grpc.GenericRpcHandler):
    """answers: {"JobService/CreateJob": function of (request, context)}; a generator function
    for "WatchLoad". `calls` lists what came, in order."""

    def __init__(self, answers):
        self.answers = answers
        self.calls = []

    def service(self, call_details):
        path = call_details.method.removeprefix("/zerocast.v1.")
        service, method = path.split("/")
        if path not in self.answers:
            return None
        deserializer = getattr(_MODULES[service], method + "Request").FromString

        def unary(request, context):
            self.calls.append((method, request))
            return self.answers[path](request, context)

        def stream(request, context):
            self.calls.append((method, request))
            yield from self.answers[path](request, context)

        if method.startswith("Watch"):
            return grpc.unary_stream_rpc_method_handler(stream, deserializer, lambda m: m.SerializeToString())
        return grpc.unary_unary_rpc_method_handler(unary, deserializer, lambda m: m.SerializeToString())

    def __enter__(self):
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait()
