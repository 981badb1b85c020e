#!/usr/bin/env python3
"""What load_checkpoint decides before there is an engine: tags, what is refused by name, the job, and what install() puts into the
Trainer. Engines: tests/oracle/resume_oracle_test.py."""

import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

import zerocast
from zerocast import _engine, _run_load, _saved, resume
from zerocast._agreement import Ranks, Store
from zerocast._proto import types_pb2

DEEPSPEED, TRAINER = "transformers.integrations.deepspeed", "transformers.trainer"


def engine(**more):
    """What refuse_what_cannot_be looks at, of an engine that is fine."""
    plain = {"module": object(), "has_moe_layers": False, "mp_world_size": 1, "zero_offload_param": lambda: None,
             "zero_nvme_offload_optimizer": lambda: False, "optimizer": object(),
             "_config": types.SimpleNamespace(zero_config=types.SimpleNamespace(zero_quantized_nontrainable_weights=False))}
    return types.SimpleNamespace(**{**plain, **more})


class TagTest(unittest.TestCase):

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def test_what_is_asked_for_goes_first(self):
        (self.folder / "latest").write_text("global_step2", encoding="utf-8")
        self.assertEqual(_saved.find_tag(str(self.folder), "other", False), "other")
        self.assertEqual(_saved.find_tag(str(self.folder), None, False), "global_step2")

    def test_a_universal_folder_is_found_with_and_without_the_flag(self):
        self.assertIsNone(_saved.find_tag(str(self.folder), None, True))
        (self.folder / "latest_universal").write_text("global_step2_universal\n", encoding="utf-8")
        for flag in (False, True):
            self.assertEqual(_saved.find_tag(str(self.folder), None, flag), "global_step2_universal")
        (self.folder / "latest").write_text("global_step2", encoding="utf-8")
        self.assertEqual(_saved.find_tag(str(self.folder), None, False), "global_step2")
        self.assertEqual(_saved.find_tag(str(self.folder), None, True), "global_step2_universal")

    def test_what_is_missing_is_named(self):
        for tag, said in (("none", "open the tag none: No such file or directory; it has global_step2"),
                          ("global_step2", "there are no model states of rank 0")):
            (self.folder / "global_step2").mkdir(exist_ok=True)
            with self.assertRaises(zerocast.LoadError) as caught:
                _saved.read(str(self.folder), tag, 0, 1, True, True)
            self.assertEqual((caught.exception.code, caught.exception.reason), ("NOT_FOUND", "CHECKPOINT_NOT_FOUND"))
            self.assertIn(f"[deepspeed] failed to resume from checkpoint {self.folder}: {said}", caught.exception.message)


class RefusedTest(unittest.TestCase):

    def test_each_by_its_name(self):
        class PipelineModule:
            """Named as DeepSpeed's."""

        _engine.refuse_what_cannot_be(engine())
        zero = types.SimpleNamespace
        for more, word in (({"module": PipelineModule()}, "pipeline"), ({"has_moe_layers": True}, "experts"),
                           ({"mp_world_size": 2}, "2 tensor-parallel ranks"),
                           ({"zero_nvme_offload_optimizer": lambda: True}, "offload_optimizer.device"),
                           ({"zero_offload_param": lambda: zero(device="OffloadDeviceEnum.nvme")}, "offload_param.device nvme"),
                           ({"optimizer": zero(zenflow=True)}, "ZenFlow"),
                           ({"_config": zero(zero_config=zero(zero_quantized_nontrainable_weights=True))}, "zero_quantized")):
            with self.subTest(word=word), self.assertRaises(zerocast.LoadError) as caught:
                _engine.refuse_what_cannot_be(engine(**more))
            self.assertEqual(caught.exception.code, "UNIMPLEMENTED")
            self.assertIn(word, caught.exception.message)


class JobTest(unittest.TestCase):

    def test_a_tag_makes_it_a_deepspeed_folder(self):
        wanted = _run_load.Wanted("/data/run7", {}, {"weights_only": True, "zero_stage": 2}, tag="global_step3",
                                  config={"zero_optimization": {"stage": 2}})
        spec = _run_load._job_spec(wanted, ["here"], 3)
        self.assertEqual((spec.display_name, spec.checkpoint_tag, spec.checkpoint_format, spec.model_spec_json),
                         ("run7 global_step3", "global_step3", types_pb2.CHECKPOINT_FORMAT_DEEPSPEED, ""))
        self.assertTrue(spec.options.weights_only)
        self.assertEqual((spec.options.zero_stage, spec.topology.world_size), (2, 3))
        plain = _run_load._job_spec(_run_load.Wanted("/data/m", {"architecture": "X"}, {}), ["here"], 1)
        self.assertEqual((plain.display_name, plain.checkpoint_format, plain.checkpoint_tag),
                         ("m for X", types_pb2.CHECKPOINT_FORMAT_UNSPECIFIED, ""))

    def test_another_tag_is_another_load(self):
        def asked(tag):
            ranks = Ranks(Store(), 0, 1, 5.0)
            with mock.patch.object(ranks, "exchange", side_effect=lambda step, value: [value]) as told:
                _run_load._agree_on_model(ranks, _run_load.Wanted("/data", {}, {}, tag=tag))
            return told.call_args[0][1][0]

        self.assertNotEqual(asked("a"), asked("b"))
        self.assertEqual(asked("a"), asked("a"))


class ShardTest(unittest.TestCase):

    def test_states_are_taken_once_and_no_name_leads_to_them(self):
        def part(name, is_state, *aliases):
            return zerocast.Partition(name, object(), (2,), "float32", 2, True, False, aliases, True, None, is_state)

        shard = zerocast.Shard("loads/1", 0, 1, "", "shared", "memfd", 0, [
            part("embed", False, "head"), part("optimizer/fp32/0", True, "embed", "norm")], True)
        self.assertEqual(shard["head"].name, "embed")
        self.assertNotIn("norm", shard)
        self.assertEqual(list(shard.take_states()), ["optimizer/fp32/0"])
        self.assertEqual(list(shard), ["embed"])
        self.assertEqual(shard.take_states(), {})


class InstallTest(unittest.TestCase):
    """The library's modules are made up."""

    def setUp(self):
        self.calls = []

        def own(deepspeed_engine, checkpoint_path, load_module_strict=True):
            self.calls.append((deepspeed_engine, checkpoint_path, load_module_strict))

        self.own = own
        self.modules = {name: types.ModuleType(name) for name in (DEEPSPEED, TRAINER)}
        for module in self.modules.values():
            module.deepspeed_load_checkpoint = own
        self.modules[DEEPSPEED].HfTrainerDeepSpeedConfig = type("Config", (), {"trainer_config_process": lambda self, args: None})
        patched = mock.patch.dict(sys.modules, self.modules)
        patched.start()
        self.addCleanup(patched.stop)
        self.addCleanup(zerocast.uninstall)

    def resume(self, error=None, **settings):
        """What the Trainer calls; zerocast's own function raises `error`."""
        zerocast.install(timeout=7.0, **settings)
        with mock.patch.object(resume, "deepspeed_load_checkpoint", side_effect=error) as ours:
            self.modules[TRAINER].deepspeed_load_checkpoint("engine", "path", load_module_strict=False)
        return ours

    def test_the_trainer_resumes_by_zerocast(self):
        ours = self.resume(server="here:1")
        ours.assert_called_once_with("engine", "path", False, server="here:1", mode="auto", timeout=7.0, load_timeout=3600.0)
        self.assertEqual(self.calls, [])

    def test_what_cannot_be_the_library_does(self):
        error = zerocast.ResumeError(zerocast.LoadError("UNIMPLEMENTED", "an engine with ZenFlow cannot be"), "path")
        with self.assertLogs("zerocast", "WARNING") as log:
            self.resume(error)
        self.assertEqual(self.calls, [("engine", "path", False)])
        self.assertRegex(log.output[0], "path is resumed from by transformers itself, not by zerocast: .*ZenFlow")
        with self.assertRaises(zerocast.ResumeError):
            self.resume(error, strict=True)
        with self.assertRaisesRegex(ValueError, "DATA_LOSS"):
            self.resume(zerocast.ResumeError(zerocast.LoadError("DATA_LOSS", "torn"), "path"))
        self.assertEqual(len(self.calls), 1)

    def test_it_is_taken_back(self):
        zerocast.install()
        zerocast.install()
        for module in self.modules.values():
            self.assertIsNot(module.deepspeed_load_checkpoint, self.own)
        zerocast.uninstall()
        for module in self.modules.values():
            self.assertIs(module.deepspeed_load_checkpoint, self.own)

    def test_a_trainer_that_is_imported_later_has_it_once(self):
        sys.modules.pop(TRAINER)
        zerocast.install()
        late = self.modules[TRAINER]
        late.deepspeed_load_checkpoint = self.modules[DEEPSPEED].deepspeed_load_checkpoint  # as an import by name
        sys.modules[TRAINER] = late
        zerocast.uninstall()
        self.assertIs(late.deepspeed_load_checkpoint, self.own)


class ErrorTest(unittest.TestCase):

    def test_in_the_integrations_words_once(self):
        words = "[deepspeed] failed to resume from checkpoint a/b"
        for message in ("torn", f"rank 1: {words}: torn"):
            error = zerocast.ResumeError(zerocast.LoadError("DATA_LOSS", message, "CHECKPOINT_CORRUPT"), "a/b")
            self.assertIsInstance(error, ValueError)
            self.assertIsInstance(error, zerocast.LoadError)
            self.assertEqual(str(error).count(words), 1)
            self.assertEqual(error.reason, "CHECKPOINT_CORRUPT")

    def test_a_path_without_steps_is_none(self):
        alone = mock.patch.object(resume, "open_ranks", lambda timeout: Ranks(Store(), 0, 1, timeout))
        with alone, tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(ValueError) as caught:
                resume.deepspeed_load_checkpoint(None, folder)
            self.assertEqual(str(caught.exception), f"Can't find a valid checkpoint at {folder}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
