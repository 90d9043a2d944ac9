r"""Does a body that was pretrained on both sides of its gaps serve better than one that reads on?

Bodies of one size read the same text. One fills gaps and sees all around them (a masked language
model, MLM); the other says which word comes next and sees what came before (left to right, LTR):

$$ L_\mathrm{MLM} = -\frac{1}{|S|} \sum_{i \in S} \ln p(x_i \mid \tilde x), \qquad
   L_\mathrm{LTR} = -\frac{1}{n-1} \sum_i \ln p(x_{i+1} \mid x_1, \dots, x_i) . $$

Then each learns from a few labeled sentences what an ambiguous word means, in one task where the
words that tell it stand to its right, in another where they stand to its left.

Reduced: a generated language with four topics; two layers of width 32. The rules stand in the front
matter of README.md.

    uv run papers/2018-bert/reproduce.py

Devlin, Chang, Lee and Toutanova (2019), "BERT", section 5.1 and table 5.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week09.optimizers import AdamW
from week13.transformer import cross_entropy
from week14.bert import Bert, BertConfig, BertForPretraining
from week14.bert_pretraining import (
    Pairs,
    Special,
    make_optimizers,
    mask_tokens,
    pretraining_losses,
)
from week14.transformers_layout import from_bert

SPECIAL = Special(pad=0, cls=1, sep=2, mask=3, first=4)
TOPICS, WORDS = 4, 8  # and words of each topic
COMMON = SPECIAL.first + TOPICS * WORDS  # the first of 8 words that all topics have
AMBIGUOUS = COMMON + 8  # the first of 4 words that mean something else in each topic
VOCAB = AMBIGUOUS + 4
SIZE, TOKENS = 6, 15  # of a sentence, of a pair of them
SIDES = {"right": 2, "left": 3}  # of the words that tell the sense, and the ambiguous word's place
BODY = BertConfig(VOCAB, d_model=32, context=TOKENS)

KINDS = ("MLM", "MLM and pairs", "LTR", "nothing")
ARMS = {  # pretrained how, and whether tokens see their left only in tuning
    "MLM": ("MLM", False),
    "MLM, left only in tuning": ("MLM", True),
    "LTR": ("LTR", True),
    "LTR, both sides in tuning": ("LTR", False),
    "MLM and pairs": ("MLM and pairs", False),
    "nothing": ("nothing", False),
}


# ---- a language with topics


def sentences(
    topic: Int[Tensor, " n"], side: str | None, generator: torch.Generator
) -> Int[Tensor, "n size"]:
    """An ambiguous word, on one `side` three words of the topic, on the other two common ones.

    They stand in any order if `side` is None.
    """
    require(side is None or side in SIDES, f"side must be one of {', '.join(SIDES)}", side)
    parts = ((3, 0, WORDS), (1, AMBIGUOUS, VOCAB), (2, COMMON, AMBIGUOUS))
    drawn = [torch.randint(a, b, (len(topic), k), generator=generator) for k, a, b in parts]
    drawn[0] += SPECIAL.first + WORDS * topic[:, None]
    words = torch.cat(drawn, dim=1)
    if side is None:
        return words.gather(1, torch.rand(words.shape, generator=generator).argsort(dim=1))
    return words if side == "left" else words.flip(1)


def draw_pairs(
    n: int, generator: torch.Generator, side: str | None = None
) -> tuple[Pairs, Int[Tensor, " n"]]:
    """[CLS] A [SEP] B [SEP], and the topic of B, which follows that of A in half of the pairs.

    In the others it is one of the three others. `side` is about B; words of A have any order.
    """
    a = torch.randint(TOPICS, (n,), generator=generator)
    apart = torch.randint(2, (n,), generator=generator)
    b = (a + 1 + apart * torch.randint(1, TOPICS, (n,), generator=generator)) % TOPICS
    first, second = sentences(a, None, generator), sentences(b, side, generator)
    cls, sep = (torch.full((n, 1), i) for i in (SPECIAL.cls, SPECIAL.sep))
    types = (torch.arange(TOKENS) >= SIZE + 2).long().expand(n, -1)
    return Pairs(torch.cat([cls, first, sep, second, sep], dim=1), types, apart), b


# ---- bodies and their training


@contextlib.contextmanager
def looking(body: Bert, left_only: bool) -> Iterator[None]:
    """While this lasts, and if `left_only`, no token sees what stands to its right."""
    hooks = [
        layer.self_attention.register_forward_pre_hook(
            lambda _, arguments, options: (arguments, options | {"is_causal": True}),
            with_kwargs=True,
        )
        for layer in body.layers
        if left_only
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def next_token_loss(model: BertForPretraining, pairs: Pairs) -> Float[Tensor, ""]:
    """Mean nats of each token after the first, from the state of the one before."""
    x = model.encoder(pairs.tokens, pairs.types)
    return cross_entropy(model.token_logits(x[:, :-1]), pairs.tokens[:, 1:])


def train(optimizers: list, loss_of_batch: Callable[[], Float[Tensor, ""]], steps: int) -> None:
    """Rates rise for a tenth of the steps, then fall to zero."""
    peaks, warm = [o.lr for o in optimizers], max(1, steps // 10)
    for step in range(steps):
        loss = loss_of_batch()
        for o, lr in zip(optimizers, peaks, strict=True):
            o.zero_grad()
            o.lr = lr * min((step + 1) / warm, (steps - step) / (steps - warm + 1))
        loss.backward()
        for o in optimizers:
            o.step()


def pretrain(kind: str, seed: int, *, steps: int, lr_scale: float) -> Bert:
    """A body of one of the `KINDS`; all of a seed start alike and read the same pairs."""
    require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}", kind)
    model = BertForPretraining(BODY, torch.Generator().manual_seed(seed))
    text, noise = (torch.Generator().manual_seed(seed + k) for k in (1000, 2000))

    def loss_of_batch() -> Float[Tensor, ""]:
        pairs, _ = draw_pairs(64, text)
        if kind == "LTR":
            return next_token_loss(model, pairs)
        gaps = mask_tokens(pairs.tokens, SPECIAL, VOCAB, generator=noise)
        words, follows = pretraining_losses(model, pairs, *gaps)
        return words + follows if kind == "MLM and pairs" else words

    if kind != "nothing":
        with looking(model.encoder, left_only=kind == "LTR"):
            train(make_optimizers(model, "muon", lr_scale=lr_scale), loss_of_batch, steps)
    return model.encoder


class Senses(nn.Module):
    """A body, and a linear map from its state at the ambiguous word of B to the senses."""

    def __init__(self, body: Bert, side: str, generator: torch.Generator):
        super().__init__()
        self.body, self.place = body, SIZE + 2 + SIDES[side]
        self.out_proj = nn.Linear(body.config.d_model, TOPICS)
        nn.init.normal_(self.out_proj.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, pairs: Pairs) -> Float[Tensor, "n topics"]:
        """Logits of the senses."""
        return self.out_proj(self.body(pairs.tokens, pairs.types)[:, self.place])


def fine_tune(
    body: Bert, side: str, seed: int, *, left_only: bool, steps: int, lr: float, tests: int
) -> float:
    """Let a copy of the body learn from 16 labeled pairs; percent of senses right in new ones."""
    generator = torch.Generator().manual_seed(seed + 3000)
    model = Senses(copy.deepcopy(body), side, generator)
    pairs, senses = draw_pairs(16, generator, side)
    asked, answers = draw_pairs(tests, generator, side)
    with looking(model.body, left_only):
        optimizers = [AdamW(model.parameters(), lr=lr)]
        train(optimizers, lambda: cross_entropy(model(pairs), senses), steps)
        with torch.no_grad():
            return 100 * (model(asked).argmax(dim=1) == answers).double().mean().item()


# ---- the run


def main(
    run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300, tuning: PositiveInt = 60
) -> None:
    """Pretrain bodies, tune each for both tasks, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Bodies of each kind.
    steps
        Batches of 64 pairs in pretraining.
    tuning
        Passes over the 16 labeled pairs.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    torch.set_num_threads(1)  # matrices of 32 columns are too small to share
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=10, default=steps, full=4 * steps)
    options = {"steps": run.budget(quick=10, default=tuning), "lr": paper.matter["lr"]}
    options["tests"] = run.budget(quick=100, default=2000)
    scores: dict[str, dict[str, list[float]]] = {arm: {s: [] for s in SIDES} for arm in ARMS}
    for seed in run.progress(range(run.seed, run.seed + seeds), "seeds"):
        scale = {"steps": steps, "lr_scale": paper.matter["lr_scale"]}
        bodies = {kind: pretrain(kind, seed, **scale) for kind in KINDS}
        for arm, (kind, left_only) in ARMS.items():
            for side, found in scores[arm].items():
                found.append(fine_tune(bodies[kind], side, seed, left_only=left_only, **options))
    judge(run, paper, scores)
    draw(run, paper, scores)


def judge(run: Run, paper: papers.Paper, scores: dict[str, dict[str, list[float]]]) -> None:
    """Points of MLM minus LTR, paired by seed."""
    right, left = ({arm: np.array(of[side]) for arm, of in scores.items()} for side in SIDES)
    late = {"quick": False, "rtol": None}
    wins, alike = paper.rules
    paper.judge(run, wins, right["MLM"] - right["LTR"], **late)
    paper.judge(run, alike, left["MLM"] - left["LTR"], **late)
    masked = right["MLM, left only in tuning"] - right["LTR"]
    run.falsifier("MLM, left only in tuning", masked, breaks=wins)
    for arm, of in scores.items():
        for side, found in of.items():
            run.metric(f"{arm}: told by the {side}", np.mean(found), "%", rtol=0.3)


def check(run: Run) -> None:
    """Gaps; the LTR arm as `transformers`' BERT of decoders; what its tokens do not see."""
    pairs, _ = draw_pairs(4000, run.generator())
    gaps, chosen = mask_tokens(pairs.tokens, SPECIAL, VOCAB, generator=run.generator(1))
    now, was = gaps[chosen], pairs.tokens[chosen]
    masked, same = (now == SPECIAL.mask).double().mean(), (now == was).double().mean()
    kept = 0.1 + 0.1 / (VOCAB - SPECIAL.first)  # a random token may be the one that stood there
    why = "four standard deviations of 7,200 draws"
    rule = {"against": "0.8, 0.1, 0.1", "kind": "theorem", "atol": 0.02, "why": why}
    found = [masked, 1 - masked - same, same]
    run.check("masked, random, kept", found, [0.8, 0.2 - kept, kept], **rule)

    import transformers

    sizes = {"num_attention_heads": BODY.n_heads, "num_hidden_layers": BODY.n_layers}
    sizes |= {"hidden_size": BODY.d_model, "intermediate_size": 4 * BODY.d_model}
    sizes |= {"vocab_size": VOCAB, "max_position_embeddings": TOKENS, "is_decoder": True}
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**sizes)).eval()
    weights, generator = dict(theirs.named_parameters()), run.generator(2)
    for name, p in weights.items():
        nn.init.normal_(p, float("LayerNorm.weight" in name), 0.2, generator=generator)
    ours = BertForPretraining(BODY)
    ours.load_state_dict(from_bert(weights))
    few = Pairs(*(x[:8] for x in pairs))
    out = theirs(input_ids=few.tokens, token_type_ids=few.types).prediction_logits
    reference = nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), few.tokens[:, 1:].flatten())
    with looking(ours.encoder, left_only=True):
        loss = next_token_loss(ours, few)
        loss.backward()
        reference.backward()
        changed = few.tokens.where(torch.arange(TOKENS) < 7, SPECIAL.first)
        seen = [ours.encoder(tokens, few.types)[:, :7] for tokens in (few.tokens, changed)]
    why = "float32 rounding through two layers and back"
    equal = run.against("transformers BertForPreTraining, is_decoder", atol=1e-5, why=why)
    equal("LTR loss", loss, reference, rtol=1e-5)
    grads = from_bert({name: p.grad for name, p in weights.items()})
    mine = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    their = torch.cat([grads[name].flatten() for name in mine])
    mine = torch.cat([grad.flatten() for grad in mine.values()])
    equal("LTR gradients / largest", mine / their.abs().max(), their / their.abs().max())
    none = {"against": "what was to its right", "kind": "theorem", "why": "not one bit may change"}
    run.check("states after other words to their right", *seen, **none)


def draw(run: Run, paper: papers.Paper, scores: dict[str, dict[str, list[float]]]) -> None:
    """The paper's differences, and how often our arms tell the sense."""
    options = {"columns": 3, "size": (11, 3.8), "width_ratios": [1, 1.3, 1.3]}
    with run.figure("senses", "Where does it help to look both ways?", **options) as panels:
        gains = {task: mlm - ltr for task, (mlm, ltr) in paper.matter["paper_scores"].items()}
        xlabel = "MLM minus LTR, points\n(the paper, table 5)"
        plots.bars(panels[0], gains, colors=[plots.GRAY], xlabel=xlabel)
        for axes, side in zip(panels[1:], SIDES, strict=True):
            bars = {arm: of[side] for arm, of in scores.items()}
            level = {"left only: at most 50": 50} if side == "right" else {}
            labels = {"xlabel": f"senses right, told by the {side} (%)\n", "xlim": (0, 105)}
            plots.bars(axes, bars, colors=plots.COLORS, reference=level, **labels)
        panels[2].set_yticklabels([])


if __name__ == "__main__":
    cli(main)
