"""Runs a training script as it is, with its from_pretrained going through zerocast.

    python -m zerocast.run [--strict] [--server ADDRESS] [--timeout SECONDS] [-m MODULE | SCRIPT] [ARG ...]
    torchrun --nproc-per-node 8 -m zerocast.run SCRIPT [ARG ...]
    deepspeed --module zerocast.run SCRIPT [ARG ...]

What zerocast cannot load the library loads by itself, and a line of the log says why; with --strict that is an
error. --server is by default ZEROCAST_SERVER, else a server is started for each load. The page TRAINER.md says more.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from types import ModuleType
from typing import List, Optional, Sequence, Tuple

from zerocast._install import DEFAULT_LOAD_TIMEOUT, DEFAULT_TIMEOUT, install

_TAKE_A_VALUE = ("--server", "--timeout", "--load-timeout", "--local_rank", "--local-rank")


def _parse(argv: Sequence[str]) -> Tuple[argparse.Namespace, bool, List[str]]:
    """(this command's options; whether a module is run; the script or module and its arguments)."""
    parser = argparse.ArgumentParser(prog="python -m zerocast.run", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("--strict", action="store_true", help="what zerocast cannot load is an error")
    parser.add_argument("--server", metavar="ADDRESS", help="of a zerocast server")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=DEFAULT_TIMEOUT,
                        help="that a rank waits for another one that says nothing (default: %(default)g)")
    parser.add_argument("--load-timeout", metavar="SECONDS", type=float, default=DEFAULT_LOAD_TIMEOUT,
                        help="that a load may last (default: %(default)g)")
    # DeepSpeed's launcher puts it before the script that it was given.
    parser.add_argument("--local_rank", "--local-rank", dest="local_rank", help=argparse.SUPPRESS)
    end = 0
    while end < len(argv) and argv[end].startswith("-") and argv[end] != "-m":
        end += 2 if argv[end] in _TAKE_A_VALUE else 1
    options, rest = parser.parse_args(argv[:end]), list(argv[end:])
    is_module = rest[:1] == ["-m"]
    if len(rest) <= is_module:
        parser.error("name a script, or -m and a module")
    return options, is_module, rest[is_module:]


def _run_script(path: str) -> None:
    """As python itself would: the script is the module __main__, for good."""
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    module = ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = module
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    exec(code, module.__dict__)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command. What the script raises goes through, SystemExit too."""
    options, is_module, rest = _parse(sys.argv[1:] if argv is None else argv)
    install(strict=options.strict, server=options.server, timeout=options.timeout, load_timeout=options.load_timeout)
    before = [] if options.local_rank is None else [f"--local_rank={options.local_rank}"]
    sys.argv = [rest[0], *before, *rest[1:]]
    if is_module:
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        _run_script(rest[0])


if __name__ == "__main__":
    main()
