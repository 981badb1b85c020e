"""Whole parameters: ZeRO stages 0 to 2, and no DeepSpeed, load and train after zerocast as after the library, bit for bit.

Wants ZC_SOURCE_DIR and ZC_BUILD_DIR (its python folder has the package).
"""

import unittest

from engine_cases import CHECKPOINTS, Cases, config


class Stages(Cases):

    def test_real_engines(self):
        mixtral, llama = str(CHECKPOINTS / "mixtral"), str(self.models / "llama")
        fp32 = {name: value for name, value in config({"stage": 2}).items() if name != "bf16"}
        made = self.compare(2, [
            {"name": "stage-0", "checkpoint": llama, "config": config({"stage": 0}), "steps": 3},
            {"name": "stage-1", "checkpoint": mixtral, "config": config({"stage": 1}), "steps": 3},
            {"name": "stage-2", "checkpoint": mixtral, "config": config({"stage": 2}), "steps": 3},
            {"name": "stage-2-tied", "checkpoint": llama, "config": config({"stage": 2}), "steps": 3},
            {"name": "stage-2-fp32", "checkpoint": llama, "config": fp32, "keywords": {"dtype": "float32"}, "steps": 3},
            {"name": "stage-2-frozen", "checkpoint": llama, "config": config({"stage": 2}), "kind": "frozen", "steps": 3},
        ])
        self.assertEqual({told["dtype"] for told in made["stage-2-fp32"][0]["parameters"].values()}, {"torch.float32"})
        for ours in made.values():
            self.assertEqual(ours[0]["before"], ours[1]["before"], "every rank has all")

    def test_one_process_without_deepspeed(self):
        deepseek, t5 = str(CHECKPOINTS / "deepseek_v3"), str(self.models / "t5")
        cases = [{"name": f"{name}-{dtype}", "checkpoint": checkpoint, "config": None, "keywords": {"dtype": dtype}, **rest}
                 for name, checkpoint, rest in (
                     ("mixtral", str(CHECKPOINTS / "mixtral"), {}), ("deepseek", deepseek, {}),
                     ("t5", t5, {"kind": "class", "class": "T5ForConditionalGeneration"}))
                 for dtype in ("auto", "bfloat16", "float16", "float32")]
        for case in cases:
            if case["name"] in ("mixtral-auto", "mixtral-bfloat16", "mixtral-float32"):
                case["steps"] = 3
        made = self.compare(0, cases)
        # Modules that are kept in float32, of the parameters and of the buffers.
        kept = {name for name, told in made["t5-float16"][0]["parameters"].items() if told["dtype"] == "torch.float32"}
        self.assertTrue(kept and all(".wo." in name for name in kept), kept)
        self.assertEqual({told[1] for name, told in made["deepseek-bfloat16"][0]["buffers"].items()
                          if "e_score_correction_bias" in name}, {"torch.float32"})

    def test_two_ranks_without_deepspeed(self):
        made = self.compare(2, [{"name": "plain", "checkpoint": str(CHECKPOINTS / "mixtral"), "config": None}])
        self.assertEqual(made["plain"][0]["before"], made["plain"][1]["before"])


if __name__ == "__main__":
    unittest.main()
