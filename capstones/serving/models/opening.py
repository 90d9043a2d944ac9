"""Models by reference.

>>> open_model("dummy").context
512
>>> open_model("gpt-9")
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR, gguf:FILE \
or dummy, got 'gpt-9'
"""

from llm_eval.models.llamas import open_llama
from llm_eval.models.networks import fused
from llm_eval.models.tokens import GGUFCodec, TinyCodec
from serving.models.language_model import LanguageModel
from shared.model_refs import LOCAL, ModelRef, parse

ACCEPTS = (*LOCAL, "dummy")


def open_model(ref: str = "smollm2", *, batch: int = 8) -> LanguageModel:
    """Open a model; nothing is fetched, and no code or pickle of a folder is run.

    Parameters
    ----------
    ref
        `smollm2`; `hf:FOLDER`, a LLaMA of Transformers; `tiny_gpt:RUN`, a run's folder;
        `compress:DIR`, what `compress` wrote; `gguf:FILE`, a LLaMA; `dummy`, a small one with
        random weights, to try the server; or what a folder or a file is, if it is one of these.
    batch
        Rows that are computed together as a rule.

    Raises
    ------
    UserError
        There is no such model, or it cannot be read.
    """
    found = parse(ref, accepts=ACCEPTS)
    if found.kind == "tiny_gpt":
        return _tiny_gpt(found)
    model, codec = _dummy() if found.kind == "dummy" else open_llama(found)
    return LanguageModel(found.text, fused(model, batch=batch), model, codec)


def _tiny_gpt(ref: ModelRef) -> LanguageModel:
    from tiny_gpt.training.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(ref.path)
    model = checkpoint.model.eval().requires_grad_(False)
    return LanguageModel(ref.text, model, model, TinyCodec(checkpoint.tokenizer, ref.text))


def _dummy():
    """A LLaMA of bytes with random weights; it speaks ChatML and says nothing."""
    import torch

    from week15.merges import printable_bytes
    from week18.gguf_tokenizer import GGUFTokenizer
    from week18.llama3 import Llama, LlamaConfig

    names = [printable_bytes()[byte] for byte in range(256)] + ["<|im_start|>", "<|im_end|>"]
    tokenizer = GGUFTokenizer(names, [1] * 256 + [3] * 2, [], cut="smollm", end=257)
    config = LlamaConfig(vocab_size=258, d_model=32, n_kv_heads=2, context=512)
    model = Llama(config, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    return model, GGUFCodec(tokenizer, "dummy")
