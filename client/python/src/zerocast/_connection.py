"""The hand-over protocol's frames, on a unix socket.

The protocol is described in client/agent/HANDOVER.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket as sockets
import time
from typing import Any, Mapping

from zerocast._errors import AttachError

# An index of 100,000 targets has about 30 MB.
_MAX_ANSWER_BYTES = 256 << 20
_CONNECT_PAUSE = 0.01  # seconds
_GIVE_BACK = 1.0  # seconds


def _advice(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "the agent's --socket-mode, and the folder that the socket is in, say who may connect"
    return ("is zerocast-agent running on this node, with that --socket, where this process sees it? ZEROCAST_SOCKET, "
            "or socket=, names another")


class Connection:
    """A connection to an agent, all of whose waits end by one deadline."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + timeout
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.fd = -1
        self._kept = False
        try:
            self._connect()
        except OSError as error:
            self._socket.close()
            raise AttachError("UNAVAILABLE", f"connect to the agent at {path}: {error.strerror or error}; "
                              f"{_advice(error)}", "AGENT_LOST") from error
        except AttachError:
            self._socket.close()
            raise

    def _connect(self) -> None:
        while True:
            self._arm()
            try:
                return self._socket.connect(self._path)
            except BlockingIOError:  # the agent's queue is full; nothing can wait for that
                time.sleep(_CONNECT_PAUSE)

    def close(self) -> None:
        if not self._kept:
            self._socket.close()
        self.close_descriptor()

    def close_descriptor(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def give_back(self) -> None:
        """Leaves what was offered, before the ack: the agent has it again when this returns, unless it
        does not answer within a second. Nothing else is said on the connection afterwards."""
        self._deadline = min(self._deadline, time.monotonic() + _GIVE_BACK)
        with contextlib.suppress(OSError, AttachError):
            self._socket.shutdown(sockets.SHUT_WR)
            while True:
                self._arm()
                if not self._socket.recv(4096):
                    return

    def keep(self) -> sockets.socket:
        """The connection itself, which is the caller's to close from now on."""
        self._kept = True
        return self._socket

    def _arm(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise AttachError("DEADLINE_EXCEEDED", f"the agent at {self._path} did not answer in "
                              "time", "DEADLINE_EXCEEDED")
        self._socket.settimeout(left)

    def _failed(self, error: object) -> AttachError:
        if isinstance(error, TimeoutError):  # socket.timeout since Python 3.10
            return AttachError("DEADLINE_EXCEEDED", f"the agent at {self._path} did not answer in "
                               "time", "DEADLINE_EXCEEDED")
        return AttachError("UNAVAILABLE", f"talk to the agent at {self._path}: {error}",
                           "AGENT_LOST")

    def send(self, message: Mapping[str, Any]) -> None:
        text = json.dumps(message).encode()
        try:
            self._arm()
            self._socket.sendall(len(text).to_bytes(4, "little") + text)
        except OSError as error:
            raise self._failed(error) from error

    def receive(self) -> Any:
        """One answer; a descriptor that comes with it is in self.fd."""
        length = int.from_bytes(self._read(4), "little")
        if length > _MAX_ANSWER_BYTES:
            raise AttachError("DATA_LOSS", f"an answer of {length} bytes from {self._path}")
        try:
            return json.loads(self._read(length))
        except ValueError as error:
            raise AttachError("DATA_LOSS", f"the answer of {self._path} is not JSON") from error

    def _read(self, num_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < num_bytes:
            try:
                self._arm()
                got, fds, _, _ = sockets.recv_fds(self._socket, num_bytes - len(data), 1,
                                                  sockets.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise self._failed(error) from error
            for fd in fds:
                if self.fd >= 0:
                    os.close(self.fd)
                self.fd = fd
            if not got:
                raise self._failed("it closed the connection")
            data += got
        return bytes(data)
