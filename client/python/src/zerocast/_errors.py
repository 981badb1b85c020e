"""What attaching raises."""

from __future__ import annotations


class AttachError(RuntimeError):
    """A shard could not be attached.

    Attributes:
        code: the status code's name, such as "PERMISSION_DENIED" or "UNAVAILABLE".
        reason: a word from the server's closed list of reasons; may be empty.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


class UnfilledError(AttachError, KeyError):
    """A weight was asked for that the checkpoint has nothing for."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "NOT_FOUND", f"{name} is not in the checkpoint, or has another shape there, which the "
            "job allowed; its elements are zero. Initialize it, and attach with "
            "allow_unfilled=True", "NOT_FOUND")

    __str__ = RuntimeError.__str__  # KeyError's would quote the message
