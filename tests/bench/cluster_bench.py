#!/usr/bin/env python3
"""A load by several agents, each in a network namespace of its own, beside what it cannot be faster than.

    python3 tests/bench/cluster_bench.py [--kind KIND] [--gb N] [--nodes N] [--ranks N] [--runs N] [--json FILE]

Needs root for namespaces; without it the agents are processes on loopback, and the first lines say so. README.md says
how the tables are read. Asserts no time. Whatever ends it, it leaves no process and no namespace behind.
"""

import subprocess
import sys
import tempfile

import bench_tools as tools
import cluster
import node_namespaces

MOVES = ("scatter", "broadcast")
LOAD_COLUMNS = (("", -32, ""), ("seconds", 9, ".3f"), ("GB/s", 7, ".2f"), ("by floors", 10, ".2f"))
NODE_COLUMNS = (("move", -10, ""), ("node", -6, ""), ("read MB", 10, ".1f"), ("by /proc", 10, ".1f"),
                ("sent MB", 10, ".1f"), ("most MB", 10, ".1f"), ("", -9, ""))
# Headers, padding of partitions, tables: what a node may send beyond its share.
SENT_ALLOWANCE = 1.02


class NodeCluster(cluster.Cluster):
    """A server beside the nodes and an agent in each."""

    def __init__(self, nodes, num_agents):
        super().__init__(num_agents=num_agents)
        self._nodes = nodes

    def _start(self):
        port_file = self.folder / "port"
        self._spawn("server", tools.BIN / "zerocast-server", f"--listen={self._nodes.outside}:0", "--store=memory",
                    f"--print-port-file={port_file}")
        self._wait("the server's port", lambda: port_file.exists() and port_file.read_text().strip())
        self.address = f"{self._nodes.outside}:{port_file.read_text().strip()}"
        for index in range(self._num_agents):
            self.start_agent(index)
        self.wait_for_agents(self._num_agents)

    def start_agent(self, index, roots=None):
        name = f"node{index}"
        # nsenter becomes the agent: the process is the agent's.
        self._spawn(name, *self._nodes.prefix(index), tools.BIN / "zerocast-agent", f"--server={self.address}",
                    f"--node={name}", f"--socket={self.folder}/{name}.sock",
                    f"--bulk-host={self._nodes.address(index)}", "--root=/")


def load(running, ckpt, kind, arguments, move):
    """One load, which is released; its report, with what each agent's process read by /proc."""
    names = [f"node{index}" for index in range(arguments.nodes)]
    before = [node_namespaces.read_characters(running.pid(name)) for name in names]
    result = cluster.zerocast(
        "--server", running.address, "--output", "json", "load", ckpt, "--world-size", arguments.ranks, "--nodes",
        arguments.nodes, *[word for name in names for word in ("--node", name)], "--model-spec",
        ckpt / "model_spec.json", "--move", move, "--release", *tools.dtype_flags(kind), timeout=tools.RUN_TIMEOUT_S)
    if result.code != 0:
        raise RuntimeError(f"load with --move {move}: {result!r}")
    report = result.json()
    if report.get("source", "files") != "files":
        raise RuntimeError(f"the shards came from {report['source']}, not from files: nothing was measured")
    for node, name, base in zip(sorted(report["nodes"], key=lambda node: node["node"]), names, before):
        node["process_read"] = node_namespaces.read_characters(running.pid(name)) - base
    return report


def transfer(nodes, num_bytes, arguments):
    """Seconds in which Gloo alone sends so many bytes, each node as many to each other."""
    # gloo_transfer's participants keep their own part.
    num_bytes = round(num_bytes / (1 - 1 / arguments.nodes))
    with tempfile.TemporaryDirectory() as rendezvous:
        ranks = [subprocess.Popen(
            [*nodes.prefix(node), tools.TEST_BIN / "gloo_transfer", "--rank", str(node), "--size",
             str(arguments.nodes), "--rendezvous", rendezvous, "--bytes", str(num_bytes), "--host",
             nodes.address(node)], stdout=subprocess.PIPE, text=True) for node in range(arguments.nodes)]
        try:
            outputs = [rank.communicate(timeout=tools.RUN_TIMEOUT_S)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        if any(rank.returncode for rank in ranks):
            raise RuntimeError(f"gloo_transfer ended with {[rank.returncode for rank in ranks]}")
        return max(map(float, outputs))


def measure(ckpt, arguments):
    loads = {move: [] for move in MOVES}
    read, moved = [], []
    data = tools.file_bytes(ckpt)[1]
    with node_namespaces.Nodes(arguments.nodes) as nodes, NodeCluster(nodes, arguments.nodes) as running:
        warm_up = load(running, ckpt, arguments.kind, arguments, MOVES[0])
        sent = sum(node["bytes_sent"] for node in warm_up["nodes"])
        for _ in range(arguments.runs):
            read.append(tools.floor(ckpt, "memfd"))
            moved.append(transfer(nodes, sent, arguments))
            for move in MOVES:
                loads[move].append(load(running, ckpt, arguments.kind, arguments, move))
    return {"bytes": data, "files": tools.file_bytes(ckpt)[0], "read_seconds": read, "transfer_seconds": moved,
            "loads": loads}


def show_times(measured):
    gigabytes = measured["files"] / 1e9
    floors = [a + b for a, b in zip(measured["read_seconds"], measured["transfer_seconds"])]
    table = []
    for name, values in (("floor: read into memfd", measured["read_seconds"]),
                         ("floor: Gloo transfer of a scatter", measured["transfer_seconds"]),
                         ("both floors", floors)):
        middle = tools.median(values)
        table.append((name, middle, gigabytes / middle, None))
    for move, reports in measured["loads"].items():
        seconds = [report["elapsed_seconds"] for report in reports]
        measured[f"{move}_by_floors"] = tools.median([a / b for a, b in zip(seconds, floors)])
        middle = tools.median(seconds)
        table.append((f"load, --move {move}", middle, gigabytes / middle, measured[f"{move}_by_floors"]))
    tools.rows(LOAD_COLUMNS, table)


def show_bytes(measured, num_nodes):
    """Of the last run: the bytes are the same in every one."""
    data = measured["bytes"]
    table, sums = [], []
    for move, reports in measured["loads"].items():
        nodes = sorted(reports[-1]["nodes"], key=lambda node: node["node"])
        for node in nodes:
            most = node["bytes_read"] * (1 - 1 / num_nodes) * SENT_ALLOWANCE if move == "scatter" else None
            verdict = "" if most is None else "" if node["bytes_sent"] <= most else "TOO MUCH"
            table.append((move, node["name"], node["bytes_read"] / 1e6, node["process_read"] / 1e6,
                          node["bytes_sent"] / 1e6, most and most / 1e6, verdict))
        total = {key: sum(node[key] for node in nodes) for key in ("bytes_read", "bytes_sent", "process_read")}
        sums.append(f"--move {move}: read {total['bytes_read'] / data:.4f} times the checkpoint's tensors "
                    f"({data / 1e6:.1f} MB),\n  sent {total['bytes_sent'] / data:.4f} times")
        measured[f"{move}_process_read_by_tensors"] = total["process_read"] / data
        measured[f"{move}_read_by_tensors"] = total["bytes_read"] / data
        measured[f"{move}_sent_by_tensors"] = total["bytes_sent"] / data
    tools.rows(NODE_COLUMNS, table)
    print("\n".join(sums))


def main():
    parser = tools.parser(__doc__)
    parser.add_argument("--kind", default="mixtral", choices=("llama", "mixtral", "fp32", "transposed"))
    parser.add_argument("--gb", type=float, default=2, help="size of the checkpoint (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="agents, 2 or more (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=8, help="of all nodes together (default: %(default)s)")
    parser.add_argument("--loopback", action="store_true", help="no namespaces: processes on 127.0.0.2, ...")
    arguments = parser.parse_args()
    if not 2 <= arguments.nodes <= arguments.ranks:
        parser.error("--nodes must be at least 2, and not more than --ranks")
    if not node_namespaces.inside() and not arguments.loopback:
        if node_namespaces.allowed():
            return node_namespaces.run_again_inside()
        arguments.loopback = True
    tools.print_command()
    print(f"{arguments.nodes} agents, " + ("processes on loopback, without namespaces" if arguments.loopback else
                                           "a network namespace each") + f"; {arguments.ranks} ranks")
    ckpt = tools.checkpoint(arguments.folder, arguments.kind, arguments.gb)
    measured = measure(ckpt, arguments)
    print(f"{arguments.kind}, {measured['files'] / 1e9:.2f} GB, median of {arguments.runs}\n")
    show_times(measured)
    print()
    show_bytes(measured, arguments.nodes)
    tools.write_json(arguments.json, {"nodes": arguments.nodes, "ranks": arguments.ranks,
                                      "namespaces": not arguments.loopback, **measured})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
