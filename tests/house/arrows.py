"""Which room may include which: the arrows between the rooms, as a table and a check.

proto <- kernels <- server <- client, never to the right; within them as MAY_INCLUDE says.
"""

import re
from pathlib import Path

KERNELS = {"kernels/base", "kernels/copy", "kernels/device", "kernels/comm"}
SERVER_PURE = {"server/base", "server/config", "server/conversion", "server/plan"}
SERVER_SEEN_BY_CLIENT = {"server/base", "server/wire", "server/plan", "server/conversion"}

# Room -> the rooms it may include besides itself.
MAY_INCLUDE = {
    "kernels/base": set(),
    "kernels/device": {"kernels/base"},
    "kernels/copy": {"kernels/base", "kernels/device"},
    "kernels/comm": {"kernels/base", "kernels/copy", "kernels/device"},
    "server/base": {"kernels/base"},
    "server/config": {"kernels/base", "server/base"},
    "server/conversion": {"kernels/base", "kernels/copy", "server/base"},
    "server/plan": {"kernels/base", "kernels/copy", "server/base", "server/conversion"},
    "server/store": {"kernels/base", "server/base"},
    "server/jobs": {"kernels/base", "kernels/copy", "server/store"} | SERVER_PURE,
    "server/wire": {"kernels/base", "kernels/copy", "server/store", "server/jobs"} | SERVER_PURE,
    "server/rpc": {"kernels/base", "kernels/copy", "server/store", "server/jobs",
                   "server/wire"} | SERVER_PURE,
    # server_main.cc, which lies in no room.
    "server": {"kernels/base", "server/store", "server/jobs", "server/wire",
               "server/rpc"} | SERVER_PURE,
    "client/formats": KERNELS | SERVER_SEEN_BY_CLIENT,
    "client/cpp": KERNELS | SERVER_SEEN_BY_CLIENT,
    # Verification shares no code with what it verifies: no reader, plan or copy.
    "client/verify": {"kernels/base", "server/base"},
    "client/agent": KERNELS | SERVER_SEEN_BY_CLIENT | {"client/formats"},
    "client/cli": KERNELS | SERVER_SEEN_BY_CLIENT | {"client/formats", "client/agent",
                                                     "client/cpp", "client/verify"},
    "client/python": {"kernels/base", "client/cpp"},
}

# Files that may include more than their room.
ALSO = [
    (r"client/cli/embedded\w*\.(h|cc)", {"server/rpc", "server/jobs", "server/store",
                                         "server/config"}),
    # The numbers of the dtypes are facts of the formats; what a tensor is called and which rules it
    # is under is not where its elements go: neither is code to verify.
    (r"client/verify/.*", {"kernels/copy/dtype.h", "server/conversion/rule.h",
                           "server/conversion/model_spec.h", "server/conversion/pattern.h",
                           "server/conversion/rename.h", "server/conversion/convert.h",
                           "server/conversion/choose_rules.h",
                           "server/conversion/quantization.h"}),
]

# The only files that see generated messages or gRPC.
SEES_PROTO = re.compile(
    r"server/(wire|rpc)/.*|server/server_main\.cc|client/(cpp|cli)/.*|client/agent/session\w*\..*|"
    r"client/agent/agent_main\.cc")
PROTO = re.compile(r".*\.pb\.h|grpc(pp|\+\+)?/.*|google/protobuf/.*")

# Functions: same input, same bytes out; no clock, no I/O, no threads.
PURE = ("server/config/", "server/conversion/", "server/plan/", "kernels/copy/")
IMPURE = re.compile(
    r"thread|mutex|shared_mutex|condition_variable|future|atomic|semaphore\.h|pthread\.h|"
    r"chrono|ctime|time\.h|random|filesystem|fstream|iostream|cstdio|stdio\.h|"
    r"unistd\.h|fcntl\.h|dirent\.h|poll\.h|liburing\.h|sys/.*|netinet/.*|arpa/.*|spdlog/.*|"
    r"absl/time/clock\.h|absl/synchronization/.*|absl/random/.*|"
    r"kernels/base/mutex\.h|server/base/clock\.h|gloo/.*|sqlite3\.h")
# kernels knows nothing of JSON either.
JSON = re.compile(r"nlohmann/.*")

SUFFIXES = {".h", ".cc", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
OURS = re.compile(r"(proto|kernels|server|client|deploy|tests)/")


def room_of(path):
    """The room of a path from the repository's root, or None outside of all rooms."""
    parts = path.split("/")
    room = "/".join(parts[:2])
    if room in MAY_INCLUDE:
        return room
    return "server" if re.fullmatch(r"server/server_main\w*\.(h|cc)", path) else None


def includes(text):
    """The (opening character, path) of every include in a source text."""
    return INCLUDE.findall(text)


def forbidden(path, opening, included, beside):
    """Why the file at path may not include what it includes, or None when it may.

    beside(name) says whether a file of that name lies in the folder of path.
    """
    room = room_of(path)
    if PROTO.fullmatch(included):
        return None if SEES_PROTO.fullmatch(path) else "generated messages and gRPC end before it"
    if path.startswith(PURE) and IMPURE.fullmatch(included):
        return "the room is a function: no clock, no I/O, no threads"
    if path.startswith("kernels/") and JSON.fullmatch(included):
        return "kernels knows nothing of JSON"
    if not OURS.match(included):
        if included.startswith(".") or (opening == '"' and beside(included)):
            return "our headers are included by their path from the root"
        return None
    target = room_of(included)
    if target is None:
        return "it lies in no room"
    if target == room or target in MAY_INCLUDE[room]:
        return None
    for files, more in ALSO:
        if re.fullmatch(files, path) and (target in more or included in more):
            return None
    return f"{room} may not include {target}"


def violations(root: Path):
    """Every forbidden include below root, as one line each; and the number of files read."""
    found, count = [], 0
    for top in ("proto", "kernels", "server", "client"):
        for file in sorted((root / top).rglob("*")):
            path = file.relative_to(root).as_posix()
            if file.suffix not in SUFFIXES or not file.is_file():
                continue
            count += 1
            if room_of(path) is None:
                found.append(f"{path}: lies in no room; rooms are named in tests/house/arrows.py")
                continue
            for opening, included in includes(file.read_text(encoding="utf-8")):
                why = forbidden(path, opening, included, lambda n: (file.parent / n).exists())
                if why:
                    found.append(f"{path}: includes {included}: {why}")
    return found, count
