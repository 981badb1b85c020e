"""The rules that the rendered Kubernetes manifests have to keep, beyond their schema.

problems(documents) returns every breach as one line; an empty list means that all hold.
"""

import re

HOST_PATHS = {"/run/zerocast": False, "/checkpoints": True}  # path -> has to be mounted read-only
PROBES = {"startupProbe": "liveness", "livenessProbe": "liveness", "readinessProbe": "readiness"}
COMPONENT = "app.kubernetes.io/component"


def workloads(documents):
    return [d for d in documents if d["kind"] in ("Deployment", "DaemonSet")]


def containers(workload):
    return workload["spec"]["template"]["spec"]["containers"]


def flags(container):
    """The flags of a container's args: {name without dashes: [values]}."""
    found = {}
    for arg in container.get("args", []):
        name, _, value = arg.partition("=")
        found.setdefault(name.lstrip("-"), []).append(value)
    return found


def seconds(text):
    match = re.fullmatch(r"(\d+)s", text)
    return int(match.group(1)) if match else None


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def find(documents, kind, name, namespace=None):
    for document in documents:
        meta = document["metadata"]
        if (document["kind"], meta["name"], meta.get("namespace")) == (kind, name, namespace):
            return document
    return None


def security(workload):
    pod = workload["spec"]["template"]["spec"]
    where = f'{workload["kind"]}/{workload["metadata"]["name"]}'
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{where}: mounts a service account token"
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(host):
            yield f"{where}: {host}"
    context = pod.get("securityContext", {})
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where}: no seccomp profile"
    is_server = workload["metadata"]["labels"][COMPONENT] == "server"
    if is_server and not (context.get("runAsNonRoot") and context.get("runAsUser")):
        yield f"{where}: may run as root"
    for container in containers(workload):
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: privileged, or may become it"
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield f"{where}: keeps capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: writable root file system"
    mounts = {m["name"]: m for c in containers(workload) for m in c.get("volumeMounts", [])}
    for volume in pod.get("volumes", []):
        path = volume.get("hostPath", {}).get("path")
        if path is None:
            continue
        if is_server or path not in HOST_PATHS:
            yield f"{where}: host path {path}"
        elif HOST_PATHS[path] and not mounts[volume["name"]].get("readOnly"):
            yield f"{where}: {path} is mounted writable"


def probes(workload):
    where = f'{workload["kind"]}/{workload["metadata"]["name"]}'
    for container in containers(workload):
        health = port_of(flags(container)["health-listen"][0])
        for probe, service in PROBES.items():
            grpc = container.get(probe, {}).get("grpc")
            if grpc != {"port": health, "service": service}:
                yield f"{where}: {probe} is {grpc}, not {service} on {health}"
        listened = {port_of(v) for name, values in flags(container).items()
                    if name.endswith("listen") for v in values}
        declared = {p["containerPort"] for p in container["ports"]}
        if listened != declared:
            yield f"{where}: listens on {sorted(listened)}, declares {sorted(declared)}"
        pod = workload["spec"]["template"]["spec"]
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = seconds(flags(container).get("drain-timeout", ["0s"])[0])
        if drain is None or sleep <= 0 or pod["terminationGracePeriodSeconds"] <= sleep + drain:
            yield f"{where}: the grace period does not cover the sleep of preStop and the drain"


def wiring(workload):
    where = f'{workload["kind"]}/{workload["metadata"]["name"]}'
    labels = workload["spec"]["template"]["metadata"]["labels"]
    if not workload["spec"]["selector"]["matchLabels"].items() <= labels.items():
        yield f"{where}: its selector does not match its own pods"
    pod = workload["spec"]["template"]["spec"]
    volumes = {v["name"] for v in pod.get("volumes", [])}
    for container in containers(workload):
        resources = container.get("resources", {})
        if not resources.get("requests", {}).get("cpu") or not resources.get("limits", {}).get(
                "memory"):
            yield f"{where}: no request for CPU or no limit of memory"
        names = {e["name"] for e in container.get("env", [])}
        for used in re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))):
            if used not in names:
                yield f"{where}: $({used}) is not in env"
        mounts = [m["mountPath"] for m in container.get("volumeMounts", [])]
        if {m["name"] for m in container.get("volumeMounts", [])} != volumes:
            yield f"{where}: volumes and mounts differ"
        of = flags(container)
        paths = of.get("socket", []) + of.get("root", [])
        paths += [v.partition(":")[2] for v in of.get("store", []) if v.startswith("sqlite:")]
        for path in paths:
            if not any(path == m or path.startswith(m + "/") for m in mounts):
                yield f"{where}: {path} lies on no volume"


def state(documents):
    """A SQLite file has one writer."""
    for workload in workloads(documents):
        for container in containers(workload):
            if not any(v.startswith("sqlite:") for v in flags(container).get("store", [])):
                continue
            spec = workload["spec"]
            if spec.get("replicas") != 1 or spec.get("strategy", {}).get("type") != "Recreate":
                yield "the server keeps its state in SQLite: one replica, strategy Recreate"
            for volume in spec["template"]["spec"]["volumes"]:
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                namespace = workload["metadata"]["namespace"]
                if not claim or not find(documents, "PersistentVolumeClaim", claim, namespace):
                    yield f"the server's volume {volume['name']} has no claim"


def network(documents):
    by_component = {w["metadata"]["labels"][COMPONENT]: w for w in workloads(documents)}
    server, agent = by_component["server"], by_component["agent"]
    for namespace in {w["metadata"]["namespace"] for w in by_component.values()}:
        deny = find(documents, "NetworkPolicy", "default-deny", namespace)
        if not deny or deny["spec"] != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
            yield f"namespace {namespace}: traffic is not denied by default"
        if not find(documents, "Namespace", namespace):
            yield f"namespace {namespace} is not made"
    grpc = port_of(flags(containers(server)[0])["listen"][0])
    target = flags(containers(agent)[0])["server"][0]
    host, _, port = target.rpartition("/")[2].partition(":")
    name, namespace = host.split(".")[:2]
    service = find(documents, "Service", name, namespace)
    if not service or service["spec"].get("clusterIP") != "None" or int(port) != grpc:
        yield f"agents dial {target}, which is no headless service of the server's port {grpc}"
    elif not service["spec"]["selector"].items() <= server["spec"]["template"]["metadata"][
            "labels"].items():
        yield "the service does not select the server's pods"

    sysctls = agent["spec"]["template"]["spec"]["securityContext"].get("sysctls", [])
    ranges = [s["value"].split() for s in sysctls if s["name"] == "net.ipv4.ip_local_port_range"]
    bulk = {"protocol": "TCP", "port": int(ranges[0][0]), "endPort": int(ranges[0][1])} \
        if ranges else None
    policy = find(documents, "NetworkPolicy", "zerocast-agent", agent["metadata"]["namespace"])
    rules = policy["spec"] if policy else {}
    for way in ("ingress", "egress"):
        if not any(bulk in rule["ports"] for rule in rules.get(way, [])):
            yield f"bulk data between agents ({bulk}) is not let through, {way}"
    if not any({"protocol": "TCP", "port": grpc} in r["ports"] for r in rules.get("egress", [])):
        yield "agents may not dial the server"
    policy = find(documents, "NetworkPolicy", "zerocast-server", server["metadata"]["namespace"])
    rules = policy["spec"]["ingress"] if policy else []
    if not any({"protocol": "TCP", "port": grpc} in rule["ports"] for rule in rules):
        yield "nobody may dial the server"


def problems(documents):
    found = []
    if sorted(w["metadata"]["labels"][COMPONENT] for w in workloads(documents)) != [
            "agent", "server"]:
        return ["there is not one server and one agent"]
    for workload in workloads(documents):
        for rule in (security, probes, wiring):
            found += rule(workload)
    for rule in (state, network):
        found += rule(documents)
    return found
