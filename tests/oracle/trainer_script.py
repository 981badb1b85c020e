"""A training script as people write it, without a word of zerocast: trainer_oracle_test runs it with and without.

It takes what transformers.TrainingArguments take, and --model_name_or_path. OUTPUT_DIR/losses.json gets the loss of each step.
"""

import dataclasses
import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments


@dataclasses.dataclass
class ModelArguments:
    model_name_or_path: str
    lora: bool = False
    model_first: bool = False


class Tokens(torch.utils.data.Dataset):
    """Sequences of random tokens."""

    def __init__(self, vocabulary):
        self.tokens = torch.randint(0, vocabulary, (64, 8), generator=torch.Generator().manual_seed(3))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def main():
    if "WORLD_SIZE" in os.environ and not torch.cuda.is_available():
        import deepspeed
        deepspeed.init_distributed("gloo")  # Accelerate does it for devices alone
    parser = HfArgumentParser((ModelArguments, TrainingArguments))
    if "--model_first" in sys.argv:
        # Before any DeepSpeed config is known.
        position = sys.argv.index("--model_name_or_path")
        model = AutoModelForCausalLM.from_pretrained(sys.argv[position + 1])
        model_arguments, arguments = parser.parse_args_into_dataclasses()
    else:
        model_arguments, arguments = parser.parse_args_into_dataclasses()
        transformers.set_seed(arguments.seed)
        model = AutoModelForCausalLM.from_pretrained(model_arguments.model_name_or_path)
    if model_arguments.lora:
        import peft
        transformers.set_seed(arguments.seed)
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"],
                                                           task_type="CAUSAL_LM"))
    trainer = Trainer(model=model, args=arguments, train_dataset=Tokens(model.config.vocab_size))
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model(os.path.join(arguments.output_dir, "saved"))
    if trainer.is_world_process_zero():
        losses = [float(entry["loss"]).hex() for entry in trainer.state.log_history if "loss" in entry]
        with open(os.path.join(arguments.output_dir, "losses.json"), "w", encoding="utf-8") as file:
            json.dump(losses, file)


if __name__ == "__main__":
    main()
