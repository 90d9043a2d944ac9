"""How fast does SmolLM2 write with the draft that `draft_model.py --full` trained? One thread.

uv run study bench 19
"""

from pathlib import Path

import torch

from shared import artifacts, records
from shared.errors import UserError
from week15.timing import in_turns
from week18.llama3 import Llama, LlamaConfig
from week18.smollm2 import SYSTEM, smollm2
from week19.draft_model import Draft, draft_generate
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.prompt_lookup import prompt_lookup_generate
from week19.sampling import greedy

NEW_TOKENS, GAMMA = 64, 4
FOLDER = records.ROOT / "runs" / "weeks" / "19" / "draft_model" / "draft"
QUESTIONS = ("Tell me about the Moon.", "What is jazz?", "Who was Marie Curie?")


def bench(repeats: int = 3) -> dict:
    """Continue three prompts greedily, alone and with four guesses per pass; both are fused.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of all warms up.
    """
    name = f"SmolLM2, {NEW_TOKENS} tokens with a trained draft, against greedy decoding"
    try:
        draft, (model, tokenizer) = load_draft(FOLDER), smollm2()
    except UserError as error:
        return {"name": f"{name}: {error}", "ours_seconds": 0, "reference_seconds": 0} | {
            "ratio": 0,
            "limit": 1.0,
            "equal_work": "nothing was run",
        }
    target, checker = FusedLlama(model, last=9), FusedLlama(model, batch=GAMMA + 1, last=9)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [torch.tensor(tokenizer.chat(chat, system=SYSTEM)) for chat in chats]

    def alone():
        steps = (generate(target, p[None], NEW_TOKENS, choose=greedy) for p in prompts)
        return [torch.cat([p, *new]) for p, new in zip(prompts, steps, strict=True)]

    def drafted():
        return [draft_generate(checker, draft, p, NEW_TOKENS, gamma=GAMMA).tokens for p in prompts]

    def searched():
        return [prompt_lookup_generate(target, p, NEW_TOKENS).tokens for p in prompts]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours_s, theirs_s, search_s = in_turns([drafted, alone, searched], repeats)
        texts = alone()
        same = all(map(torch.equal, drafted(), texts)) and all(map(torch.equal, searched(), texts))
    finally:
        torch.set_num_threads(threads)
    return {
        "name": f"{name} (prompt lookup: {search_s / theirs_s:.2f} times its seconds)",
        "ours_seconds": ours_s,
        "reference_seconds": theirs_s,
        "ratio": ours_s / theirs_s,
        "limit": 1.0,
        "equal_work": "the same tokens" if same else "DIFFERENT TOKENS",
    }


def load_draft(folder: Path) -> Draft:
    """What the evidence left.

    Raises
    ------
    UserError
        If it is not there: the draft is trained by `uv run weeks/19/draft_model.py --full`.
    """
    try:
        state, _ = artifacts.load_tensors(folder)
    except artifacts.ArtifactError as error:
        command = "uv run weeks/19/draft_model.py --full"
        raise UserError(f"{error}; `{command}` trains the draft") from error
    known = state.pop("known")
    vocab_size, d_model = state["embed.weight"].shape
    n_layers = sum(name.endswith("attention_norm.weight") for name in state)
    sizes = {"d_model": d_model, "n_layers": n_layers, "n_heads": max(1, d_model // 32)}
    model = Llama(LlamaConfig(vocab_size, **sizes, rope_base=1e4, tied=True))
    model.load_state_dict(state)
    return Draft(model.eval().requires_grad_(False), known)
