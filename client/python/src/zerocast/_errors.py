"""What this package raises: ZerocastError and its kinds."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple


class ZerocastError(RuntimeError):
    """Every error of this package.

    Attributes:
        code: the status code's name, such as "PERMISSION_DENIED" or "UNAVAILABLE".
        message: what was tried, on what, what happened and what to do.
        reason: a word from the server's closed list of reasons; may be empty.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.reason = reason
        self.message = message


class AttachError(ZerocastError):
    """A shard could not be attached."""


class UnfilledError(AttachError, KeyError):
    """A weight was asked for that the checkpoint has nothing for."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "NOT_FOUND", f"{name} is not in the checkpoint, or has another shape there, which the "
            "job allowed; its elements are zero. Initialize it, and attach with "
            "allow_unfilled=True", "NOT_FOUND")

    __str__ = RuntimeError.__str__  # KeyError's would quote the message


class ServerError(ZerocastError):
    """A call to a server failed, or the load that it tells of.

    Attributes:
        violations: (field, description) of everything that is wrong with the request, in the
            server's order; empty where the request is not at fault.
    """

    def __init__(self, code: str, message: str, reason: str = "",
                 violations: Sequence[Tuple[str, str]] = ()) -> None:
        super().__init__(code, message, reason)
        self.violations = tuple(violations)


class EmbeddedError(ZerocastError):
    """A server or agent that this process starts could not be started."""


_MISMATCHES = "Please correct the following DeepSpeed config values that mismatch TrainingArguments values:\n"
_ADVICE = "\nThe easiest method is to set these DeepSpeed config values to 'auto'."


class ConfigError(ZerocastError, ValueError):
    """A DeepSpeed config was refused. Its text is the message alone: that of the exception which
    Transformers' integration raises, byte for byte, where that would refuse it.

    Attributes:
        mismatches: the message's lines "ds PATH=VALUE vs hf ARGUMENT=VALUE", all of them; empty
            where something else is wrong.
        stage: "parse", "process" or "init", where the integration refuses the config; "request"
            where it was never asked.
        error_type: the name of the integration's exception ("ValueError", "AttributeError", ...).
        violations: (path, description) of what is wrong; told by servers alone.
    """

    def __init__(self, message: str, *, stage: str, error_type: str = "INVALID_ARGUMENT",
                 violations: Sequence[Tuple[str, str]] = ()) -> None:
        lines = message[len(_MISMATCHES):-len(_ADVICE)] \
            if message.startswith(_MISMATCHES) and message.endswith(_ADVICE) else ""
        code, reason = ("FAILED_PRECONDITION", "CONFIG_MISMATCH") if lines else \
            (error_type if stage == "request" else "INVALID_ARGUMENT", "INVALID_FIELDS")
        super().__init__(code, message, reason)
        self.mismatches = lines.removeprefix("- ").split("\n- ") if lines else []
        self.stage = stage
        self.error_type = error_type
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return self.message


class LoadError(ZerocastError):
    """A model could not be loaded. All ranks of the job raise it, with the same text.

    The reason may also be RANK_LOST: a rank died, or said nothing in time.

    Attributes:
        rank: the rank on which it happened; None: on no one in particular.
    """

    def __init__(self, code: str, message: str, reason: str = "", rank: Optional[int] = None) -> None:
        super().__init__(code, message if rank is None else f"rank {rank}: {message}", reason)
        self.message = message
        self.rank = rank
        self.is_agreed = False  # whether the other ranks know it
        self.num_lost = 0  # ranks that nobody need wait for any more

    def append(self, text: str) -> None:
        """Adds to the message."""
        self.message += f"; {text}"
        self.args = (f"{self.code}: {self.message}",)


class ResumeError(LoadError, ValueError):
    """A checkpoint could not be resumed from: a LoadError in the words of the library's integration, which raises
    ValueErrors."""

    def __init__(self, error: LoadError, checkpoint: str) -> None:
        words = f"[deepspeed] failed to resume from checkpoint {checkpoint}"
        super().__init__(error.code, error.message if words in error.message else f"{words}: {error.message}",
                         error.reason)
        self.rank = error.rank
        self.is_agreed = error.is_agreed
