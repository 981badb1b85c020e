"""The grpcurl calls of proto/README.md work against a real server.

What grpcurl does is done here: descriptors by the server's reflection, the request from JSON, the
call by name. So a call of the page with a field that is misspelt, or a server without reflection,
fails.
"""

import json
import os
import pathlib
import re
import shlex
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
import cluster  # noqa: E402

import grpc  # noqa: E402
from google.protobuf import json_format, message_factory  # noqa: E402
from google.protobuf.descriptor_pool import DescriptorPool  # noqa: E402
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # noqa: E402
    ProtoReflectionDescriptorDatabase)

PAGE = pathlib.Path(os.environ["ZC_SOURCE_DIR"]) / "proto" / "README.md"
# Flags with a value, of those that the page uses.
WITH_VALUE = ("-max-time", "-d")


def calls():
    """[(flags, method)] of every `grpcurl` command in the page's code blocks."""
    found, lines = [], iter(PAGE.read_text().splitlines())
    for line in lines:
        if not line.startswith("    grpcurl "):
            continue
        text = line.strip()
        while True:
            # A quoted JSON, or a backslash, goes on in the next line.
            try:
                words = shlex.split(text)
                if not text.endswith("\\"):
                    break
            except ValueError:
                pass
            text = text.removesuffix("\\") + "\n" + next(lines).strip()
        flags, rest, words = {}, [], words[1:]
        while words:
            word = words.pop(0)
            if word.startswith("-"):
                flags[word] = words.pop(0) if word in WITH_VALUE else True
            else:
                rest.append(word)
        _, method = rest
        found.append((flags, method))
    return found


class GrpcurlTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster.Cluster(0, server_args=["--reflection"])
        cls.cluster.__enter__()
        cls.addClassCleanup(cls.cluster.stop)
        cls.channel = grpc.insecure_channel(cls.cluster.address)
        cls.addClassCleanup(cls.channel.close)
        cls.pool = DescriptorPool(ProtoReflectionDescriptorDatabase(cls.channel))

    def call(self, method, text, timeout):
        """The answer to a request as JSON, both by reflection alone."""
        service, name = method.split("/")
        descriptor = self.pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.Parse(text, message_factory.GetMessageClass(descriptor.input_type)(),
                                    descriptor_pool=self.pool)
        answer = self.channel.unary_unary(
            f"/{method}", request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(descriptor.output_type).FromString)
        return json_format.MessageToDict(answer(request, timeout=timeout),
                                         preserving_proto_field_name=True)

    def test_every_call_of_the_page_is_answered(self):
        methods = []
        for flags, method in calls():
            with self.subTest(method=method):
                methods.append(method.rsplit("/", 1)[1])
                self.assertIn("-plaintext", flags)
                text = flags.get("-d", "{}")
                if "jobs/ID" in text:
                    created = self.call("zerocast.v1.JobService/CreateJob", json.dumps({
                        "spec": {
                            "checkpoint_path": "/checkpoint",
                            "topology": {"world_size": 2, "num_nodes": 1},
                            "deepspeed_config_json": '{"zero_optimization": {"stage": 3}}',
                            "training_arguments_json": "{}"}}), 30)
                    text = text.replace("jobs/ID", created["job"]["name"])
                # The page's own limit is for a user's machine, not for a loaded one.
                self.assertGreater(float(flags["-max-time"]), 0, "every call needs a deadline")
                answer = self.call(method, text, 30)
                getattr(self, f"check_{methods[-1]}")(answer)
        self.assertEqual(sorted(set(methods)), ["GetServerInfo", "QueryConfig", "ResolveConfig"])

    def check_GetServerInfo(self, answer):
        self.assertTrue(re.fullmatch(r"\d+\.\d+\.\d+.*", answer["version"]), answer)

    def check_ResolveConfig(self, answer):
        # 4 samples x 2 steps x 8 ranks.
        self.assertEqual(json.loads(answer["config_json"])["train_batch_size"], 64)

    def check_QueryConfig(self, answer):
        self.assertEqual(answer["value_json"], "3", answer)

    def test_a_misspelt_field_is_refused_before_the_call(self):
        with self.assertRaisesRegex(json_format.ParseError, "config_jsonn"):
            self.call("zerocast.v1.ConfigService/ResolveConfig", '{"config_jsonn": "{}"}', 30)


if __name__ == "__main__":
    unittest.main()
