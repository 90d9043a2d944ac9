"""llm-compressor's GPTQ, in an environment of its own, since it needs another torch than the log.

    uv run --no-project --with llmcompressor==0.14.0.1 llm_compressor_worker.py MODEL IDS OUT

MODEL is a Hugging Face folder, IDS a safetensors file with the rows of the text under `ids`, OUT
gets the folder with the floats that the rounded weights stand for. Four bits, groups of 64 columns,
symmetric. It must not import anything of the log.
"""

import sys

import torch


def main(model: str, ids: str, out: str) -> None:
    """Quantize and save."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    rows = load_file(ids)["ids"]
    text = {"input_ids": rows.tolist(), "attention_mask": torch.ones_like(rows).tolist()}
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    group = {"targets": ["Linear"], "weights": weights | {"group_size": 64}}
    oneshot(
        model=net,
        dataset=Dataset.from_dict(text),
        recipe=GPTQModifier(config_groups={"group_0": group}, ignore=["lm_head"]),
        num_calibration_samples=len(rows),
        max_seq_length=rows.shape[1],
        shuffle_calibration_samples=False,
    )
    AutoConfig.from_pretrained(model, local_files_only=True).save_pretrained(out)
    found = {name: p for name, p in net.state_dict().items() if name.endswith(("weight",))}
    found.pop("lm_head.weight" if net.config.tie_word_embeddings else "", None)
    save_file({name: p.contiguous() for name, p in found.items()}, f"{out}/model.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
