"""SmolLM2 with rounded weights on WikiText-2's test part, by two protocols."""

import copy

import torch
from torch import Tensor, nn

from shared import datasets, plots
from shared.errors import UserError
from shared.study import Run
from week18.smollm2 import smollm2
from week19 import perplexity
from week19.quantization import Granularity, fake_quantize

PREFIX = 0  # <|endoftext|>, between documents in training; lm-eval would take the chat's bos, 1
# The weights come from a file with 4 bits in blocks of 32; on that very grid nothing would be lost.
FORMS: dict[str, tuple[int, Granularity] | None] = {
    "float32": None,
    "int8, channel": (8, "channel"),
    "int4, groups of 64": (4, 64),
    "int4, channel": (4, "channel"),
    "int4, tensor": (4, "tensor"),
}


def rounded(model: nn.Module, form: tuple[int, Granularity] | None) -> nn.Module:
    """The model with the matrices of its blocks rounded (the embedding, which is the head, too)."""
    copied = copy.deepcopy(model)
    if form is not None:
        options = {"bits": form[0], "symmetric": True, "granularity": form[1]}
        with torch.no_grad():
            for p in copied.parameters():
                if p.ndim == 2:
                    p.copy_(fake_quantize(p, **options))
    return copied


def judge_smollm2(run: Run, windows: int) -> None:
    """Loss of each form per window (GPTQ's protocol) and per page (lm-eval's)."""
    try:
        model, tokenizer = smollm2()
        text = datasets.wikitext2("test")
    except UserError as error:
        run.say(f"SmolLM2 is left out: {error}")
        return
    context = run.budget(quick=16, default=256, full=2048)
    windows = run.budget(quick=1, default=windows, full=10**6)
    few = sorted(perplexity.pages(text), key=len)[: run.budget(quick=1, default=3, full=None)]
    tokens = torch.tensor(tokenizer.encode("\n\n".join(text.splitlines(keepends=True))))
    tokens = tokens[: context * min(windows, len(tokens) // context)]
    nats: dict[str, Tensor] = {}
    for name, form in run.progress(FORMS.items(), "reading WikiText-2"):
        reader = rounded(model, form)
        nats[name] = perplexity.gptq_nats(reader, tokens, context=context)
        run.metric(f"perplexity by GPTQ's protocol, {name}", nats[name].mean().exp(), rtol=0.05)
        if form in (None, (8, "channel"), (4, 64)):
            by_page(run, reader, tokenizer, few, context, name)
    run.metric("tokens read by GPTQ's protocol", len(tokens))
    run.metric("context in tokens", context)
    lost = {name: n - nats["float32"] for name, n in nats.items() if name != "float32"}
    little = "int8 costs SmolLM2 less than 0.02 nats"
    run.claim(little, lost["int8, channel"], at_most=0.02, unit="nats/token")
    run.falsifier("int4, one grid per matrix", lost["int4, tensor"], breaks=little)
    gain = lost["int4, channel"] - lost["int4, groups of 64"]
    run.claim("groups of 64 mend int4", gain, at_least=0.05, unit="nats/token")
    with run.figure("smollm2", "What does rounding cost SmolLM2?") as axes:
        label = f"nats per token lost, WikiText-2, {windows} windows of {context} (dots)"
        plots.bars(axes, lost, xlabel=label, xscale="symlog")


def by_page(run: Run, model: nn.Module, tokenizer, pages: list[str], context: int, name: str):
    """Word perplexity and bits per byte of the pages together."""
    total = words = size = 0.0
    for page in pages:
        tokens = tokenizer.encode(perplexity.detokenize(page))
        nats = perplexity.page_nats(model, tokens, PREFIX, context=context)
        units = perplexity.per_word_and_byte(page, nats)
        words += nats / torch.tensor(units["word_perplexity"]).log().item()
        total, size = total + nats, size + len(page.encode())
    bits = total / size / torch.tensor(2.0).log().item()
    word = torch.tensor(total / words).exp()
    run.metric(f"word perplexity by lm-eval's protocol, {name}", word, rtol=0.05)
    run.metric(f"bits per byte by lm-eval's protocol, {name}", bits, rtol=0.05)
