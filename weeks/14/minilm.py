r"""MiniLM: one vector per sentence, by our encoder with real weights.

The hidden states of a sentence's $n$ tokens are averaged and divided by their length, so that a
dot product is a cosine:

$$ e = \frac{m}{\lVert m \rVert}, \qquad m = \frac{1}{n} \sum_{i=1}^{n} h_i . $$

>>> model = load_bert(minilm())
>>> tokens = torch.tensor([[101, 2748, 102, 0], [101, 2053, 2053, 102]])  # 0 is padding
>>> sentence_embeddings(model, tokens, keep=tokens != 0).norm(dim=1)
tensor([1.0000, 1.0000], grad_fn=<LinalgVectorNormBackward0>)

`uv run weeks/14/bert.py` compares it with transformers and sentence-transformers.

Source: Reimers & Gurevych, "Sentence-BERT" (2019), section 3.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.errors import UserError
from shared.pretrained import minilm
from shared.require import require
from week14.bert import Bert, BertConfig
from week14.transformers_layout import from_bert

SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "context": "max_position_embeddings",
    "n_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}

__all__ = ["load_bert", "minilm", "sentence_embeddings"]


def load_bert(folder: Path, *, dropout: float = 0.0) -> Bert:
    """Read a Hugging Face folder of a BERT, without its pooler.

    Raises
    ------
    UserError
        If a file is missing or is not that of a BERT.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for name, plain in (("model_type", "bert"), ("hidden_act", "gelu")):
            require(content[name] == plain, f"{name} must be {plain!r}", repr(content[name]))
        sizes = {ours: content[theirs] for ours, theirs in SIZES.items()}
        with torch.device("meta"):
            model = Bert(BertConfig(**sizes, dropout=dropout))
        weights = from_bert(load_file(folder / "model.safetensors"))
        model.load_state_dict(weights, assign=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} is not a readable BERT: {error!r}") from error
    return model.requires_grad_()


@checked
def sentence_embeddings(
    model: Bert, tokens: Int[Tensor, "batch seq"], keep: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch d_model"]:
    """Mean of the hidden states of real tokens, [CLS] and [SEP] among them, of length 1."""
    require(keep.any(dim=1).all(), "keep must leave each sentence a token", "none in one")
    x = model(tokens, keep=keep) * keep[..., None]
    mean = x.sum(dim=1) / keep.sum(dim=1, keepdim=True)
    return mean / mean.norm(dim=1, keepdim=True)
