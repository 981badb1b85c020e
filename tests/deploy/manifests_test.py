#!/usr/bin/env python3
"""Renders every overlay of deploy/kubernetes and holds it against the schemas and our rules."""

import copy
import os
import re
import subprocess
import unittest
from pathlib import Path

import kubernetes_validate
import manifest_rules
import yaml

SOURCE = Path(os.environ["ZC_SOURCE_DIR"])
BIN = Path(os.environ.get("ZC_BIN_DIR", "/nonexistent"))
KUBERNETES = SOURCE / "deploy/kubernetes"
FOLDERS = [KUBERNETES / "base"] + sorted(p.parent for p in KUBERNETES.glob("overlays/*/kust*.yaml"))
VERSIONS = ["1.30", "1.37"]


def render(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise AssertionError(f"kubectl kustomize {folder}: {done.stderr}")
    return [d for d in yaml.safe_load_all(done.stdout) if d]


def schema_errors(document, version):
    """What kubernetes-validate --strict says; an unknown kind is an error, not a warning."""
    try:
        used = kubernetes_validate.validate(document, version, strict=True)
        return [] if used == version else [f"checked against {used} instead of {version}"]
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [error.message]


def server_of(documents):
    return next(d for d in documents if d["kind"] == "Deployment")


def agent_of(documents):
    return next(d for d in documents if d["kind"] == "DaemonSet")


def first_container(workload):
    return workload["spec"]["template"]["spec"]["containers"][0]


def pod(workload):
    return workload["spec"]["template"]["spec"]


class Schema(unittest.TestCase):
    def test_every_overlay_is_valid(self):
        self.assertGreaterEqual(len(FOLDERS), 3, "base and the overlays dev and gpu")
        for folder in FOLDERS:
            documents = render(folder)
            for version in VERSIONS:
                for document in documents:
                    with self.subTest(folder=folder.name, version=version, kind=document["kind"]):
                        self.assertEqual(schema_errors(document, version), [])

    def test_a_broken_manifest_is_refused(self):
        def misspelled(server):
            server["spec"]["replicaz"] = 1

        def nested(server):
            first_container(server)["livenessProbe"]["grpc"]["prot"] = 1

        def wrong_type(server):
            server["spec"]["replicas"] = "one"

        def required(server):
            del server["spec"]["selector"]

        def unknown_kind(server):
            server["kind"] = "Deploymint"

        base = render(KUBERNETES / "base")
        for version in VERSIONS:
            for mutate in (misspelled, nested, wrong_type, required, unknown_kind):
                with self.subTest(version=version, mutation=mutate.__name__):
                    document = copy.deepcopy(server_of(base))
                    mutate(document)
                    self.assertNotEqual(schema_errors(document, version), [])


class Rules(unittest.TestCase):
    def test_every_overlay_keeps_them(self):
        for folder in FOLDERS:
            with self.subTest(folder=folder.name):
                self.assertEqual(manifest_rules.problems(render(folder)), [])

    def test_a_breach_is_found(self):
        breaches = {
            "token": lambda d: pod(agent_of(d)).pop("automountServiceAccountToken"),
            "hostNetwork": lambda d: pod(agent_of(d)).update(hostNetwork=True),
            "root": lambda d: pod(server_of(d))["securityContext"].pop("runAsNonRoot"),
            "privileged": lambda d: first_container(agent_of(d))["securityContext"].update(
                privileged=True),
            "capability": lambda d: first_container(agent_of(d))["securityContext"][
                "capabilities"].update(add=["SYS_ADMIN"]),
            "writable root": lambda d: first_container(server_of(d))["securityContext"].pop(
                "readOnlyRootFilesystem"),
            "host path": lambda d: pod(agent_of(d))["volumes"].append(
                {"name": "etc", "hostPath": {"path": "/etc"}}),
            "writable checkpoints": lambda d: [
                m.pop("readOnly", None) for m in first_container(agent_of(d))["volumeMounts"]],
            "probe's service": lambda d: first_container(server_of(d))["readinessProbe"][
                "grpc"].update(service="ready"),
            "probe's port": lambda d: first_container(server_of(d))["livenessProbe"][
                "grpc"].update(port=50051),
            "undeclared port": lambda d: first_container(server_of(d))["ports"].pop(),
            "grace": lambda d: pod(server_of(d)).update(terminationGracePeriodSeconds=35),
            "no preStop": lambda d: first_container(agent_of(d)).pop("lifecycle"),
            "selector": lambda d: server_of(d)["spec"]["selector"]["matchLabels"].update(a="b"),
            "resources": lambda d: first_container(agent_of(d)).pop("resources"),
            "env": lambda d: first_container(agent_of(d))["env"].pop(0),
            "unmounted": lambda d: first_container(agent_of(d))["args"].append("--root=/data"),
            "two writers": lambda d: server_of(d)["spec"].update(replicas=2),
            "rolling": lambda d: server_of(d)["spec"].update(strategy={"type": "RollingUpdate"}),
            "claim": lambda d: d.remove(next(x for x in d if x["kind"] == "PersistentVolumeClaim")),
            "open": lambda d: d.remove(next(x for x in d if x["metadata"]["name"] ==
                                            "default-deny")),
            "virtual IP": lambda d: next(x for x in d if x["kind"] == "Service")["spec"].pop(
                "clusterIP"),
            "bulk range": lambda d: pod(agent_of(d))["securityContext"]["sysctls"][0].update(
                value="32768 60999"),
            "server's policy": lambda d: d.remove(manifest_rules.find(
                d, "NetworkPolicy", "zerocast-server", "zerocast-system")),
        }
        base = render(KUBERNETES / "base")
        for name, mutate in breaches.items():
            with self.subTest(breach=name):
                documents = copy.deepcopy(base)
                mutate(documents)
                self.assertNotEqual(manifest_rules.problems(documents), [])

    def test_overlays_differ_as_their_names_say(self):
        base, dev, gpu = (agent_of(render(f)) for f in (
            KUBERNETES / "base", KUBERNETES / "overlays/dev", KUBERNETES / "overlays/gpu"))
        self.assertNotIn("runtimeClassName", pod(base))
        self.assertNotIn("runtimeClassName", pod(dev))
        self.assertEqual(pod(gpu)["runtimeClassName"], "nvidia")
        self.assertEqual(pod(gpu)["nodeSelector"], {"nvidia.com/gpu.present": "true"})
        names = [e["name"] for e in first_container(gpu)["env"]]
        self.assertLessEqual({"NODE_NAME", "POD_IP", "NVIDIA_VISIBLE_DEVICES"}, set(names))
        self.assertNotIn("nvidia.com/gpu", first_container(gpu)["resources"]["limits"],
                         "a request would take the GPUs from the jobs")
        self.assertEqual(first_container(gpu)["args"], first_container(base)["args"])

    def test_images_have_the_version_of_the_build(self):
        version = re.search(r"project\(zerocast VERSION ([\d.]+)",
                            (SOURCE / "CMakeLists.txt").read_text(encoding="utf-8")).group(1)
        for folder in FOLDERS:
            documents = render(folder)
            for workload in manifest_rules.workloads(documents):
                component = workload["metadata"]["labels"]["app.kubernetes.io/component"]
                self.assertEqual(first_container(workload)["image"],
                                 f"zerocast/{component}:{version}")


class Flags(unittest.TestCase):
    def test_the_binaries_know_every_flag(self):
        absent = []
        for workload in manifest_rules.workloads(render(KUBERNETES / "base")):
            container = first_container(workload)
            binary = BIN / f"zerocast-{container['name']}"
            if not binary.exists():
                absent.append(binary.name)
                continue
            text = subprocess.run([str(binary), "--help"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=60,
                                  check=True).stdout
            known = set(re.findall(r"--([a-z][a-z0-9-]*)", text))
            for flag in manifest_rules.flags(container):
                with self.subTest(binary=binary.name, flag=flag):
                    self.assertIn(flag, known)
        if absent:
            self.skipTest(f"not built: {', '.join(absent)}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
