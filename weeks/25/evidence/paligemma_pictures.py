"""Figures of what PaliGemma 2 answers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from shared import plots
from shared.study import Run
from week25.answering import decoded, rows
from week25.paligemma2 import PaliGemma2
from week25.scenes import END


def show_shares(
    run: Run, by_kind: dict, kinds: Sequence[str], losses: list[float], leak: list[float]
) -> None:
    """Answers by question, and two losses of which the lower one is worthless."""
    title = "What does it answer rightly, and what if the mask leaks?"
    with run.figure("answers", title, columns=2, size=(9, 3.8)) as axes:
        labels = {"seen": "pairs seen", "new": "pairs never seen", "blind": "another's picture"}
        for k, (group, label) in enumerate(labels.items()):
            for i, kind in enumerate(kinds):
                values = [f[kind] for f in by_kind[group]]
                at = i + 0.27 * (k - 1)
                name = label if i == 0 else None
                axes[0].bar(at, sum(values) / len(values), 0.25, color=plots.COLORS[k], label=name)
                axes[0].plot([at] * len(values), values, ".", color="0.2", ms=4)
        axes[0].set_xticks(range(len(kinds)), kinds, size=9)
        axes[0].set(ylabel="answers wholly right (dots: models)", ylim=(0, 1.05))
        axes[0].legend(fontsize=8)
        for values, label, color in (
            (losses, "prefix full, answer causal", plots.BLUE),
            (leak, "answer sees itself", plots.ORANGE),
        ):
            smooth = torch.tensor(values).unfold(0, min(10, len(values)), 1).mean(-1)
            axes[1].plot(smooth.numpy(), color=color, label=label)
        axes[1].set(xlabel="step", ylabel="loss per token of an answer", yscale="log")
        axes[1].legend(fontsize=8)


def show_answers(
    run: Run,
    model: PaliGemma2,
    images: Float[Tensor, "4 3 16 16"],
    texts: Sequence[Sequence[tuple[str, str]]],
) -> None:
    """Four scenes with what the model says."""
    title = "What does it say? The last two show pairs that it never saw"
    with run.figure("scenes", title, columns=4, size=(10, 3.8)) as axes:
        for ax, image, pairs in zip(axes, images, texts, strict=True):
            ax.imshow(((image + 1) / 2).permute(1, 2, 0).numpy())
            ax.set(xticks=[], yticks=[])
            lines = []
            for text, answer in pairs:
                asks = rows([text], [answer])
                question = asks.tokens[:, : asks.prefix[0]]
                said = decoded(model.answer(image[None], question, 8, end=END))[0]
                lines.append(f"{text}: {said} ({'right' if said == answer else answer})")
            ax.set_xlabel("\n".join(lines), size=7.5, loc="left", multialignment="left")
