"""Gradients equal to torch's; then it learns to write, and what carrying the state is worth."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week11.char_rnn import AdaGrad, CharRNN, chunks


def main(
    run: Run, *, dataset: str = "pydocs", hidden_size: PositiveInt = 96, seeds: PositiveInt = 5
) -> None:
    """Check the gradients, then train on a text and let the network write.

    Parameters
    ----------
    dataset
        Text to learn: pydocs, tinyshakespeare, wikitext2 or wikipedia.
    hidden_size
        Width of the state.
    seeds
        Networks of each kind.
    """
    check_torch(run)
    text = datasets.load_text(dataset)[: run.budget(quick=20_000, default=300_000)]
    alphabet, tokens = np.unique(np.array(list(text)), return_inverse=True)
    split = int(0.9 * len(tokens))
    parts = tokens[:split], tokens[split:]
    noise = run.rng.permutation(parts[0])
    unigram, bigram = counted(*parts, len(alphabet))

    steps, seeds = run.budget(quick=6, default=400), run.budget(quick=2, default=seeds)
    ends: dict[str, list[float]] = {"carried": [], "reset": [], "shuffled": []}
    paths = []
    for seed in run.progress(range(seeds), "seeds"):
        for name, losses in ends.items():
            network = CharRNN(
                len(alphabet), hidden_size, rng=np.random.default_rng(run.seed + seed)
            )
            read = noise if name == "shuffled" else parts[0]
            path = train(network, read, steps, carry=name != "reset")
            losses.append(evaluate(network, parts[1]))
            if name == "carried":
                paths.append(path)
                writer = network
    gain = {name: bigram - np.array(losses) for name, losses in ends.items()}
    seen = "three of these seeds, trained for 500 steps"
    unit = {"unit": "nats per character", "quick": False, "seen_before": seen}
    learns = "it learns more than pairs of characters"
    run.claim(learns, gain["carried"], at_least=0.2, **unit)
    run.falsifier("trained on shuffled characters", gain["shuffled"], breaks=learns)
    carried = np.array(ends["reset"]) - ends["carried"]
    run.claim("carrying the state from chunk to chunk helps", carried, at_least=0.0, **unit)
    run.metric("loss on held-out text", np.mean(ends["carried"]), "nats per character", rtol=0.02)
    said = writer.write(tokens[:1], 300, np.random.default_rng(run.seed))
    run.say("It writes: " + repr("".join(alphabet[i] for i in said)))
    with run.figure("loss", "It soon knows more than the counts of pairs") as axes:
        smooth = np.lib.stride_tricks.sliding_window_view(paths, min(20, steps), axis=1).mean(-1)
        lines = {"its loss on new chunks": smooth}
        reference = {"single characters, counted": unigram, "pairs, counted": bigram}
        labels = {"xlabel": "step", "ylabel": "loss (nats per character)"}
        plots.curves(axes, range(smooth.shape[1]), lines, reference=reference, ends=False, **labels)


def train(network: CharRNN, tokens: np.ndarray, steps: int, *, carry: bool = True) -> list[float]:
    """AdaGrad on chunks in order, over and over; the loss of each before its step."""
    optimizer, losses = AdaGrad(network.parameters, lr=0.05, clip=1.0), []
    while True:
        h = None
        for x, y in chunks(tokens, batch_size=32, length=24):
            loss, gradients, last = network.loss_and_gradients(x, y, h)
            optimizer.step(gradients)
            losses.append(loss)
            h = last if carry else None
            if len(losses) == steps:
                return losses


def counted(seen: np.ndarray, new: np.ndarray, vocab_size: int) -> tuple[float, float]:
    """Loss on new text of counting single characters, and pairs; one is added to each count."""
    singles = np.bincount(seen, minlength=vocab_size) + 1.0
    pairs = np.ones((vocab_size, vocab_size))
    np.add.at(pairs, (seen[:-1], seen[1:]), 1.0)
    given = pairs / pairs.sum(axis=1, keepdims=True)
    single = -np.log(singles / singles.sum())[new].mean()
    return float(single), float(-np.log(given[new[:-1], new[1:]]).mean())


def evaluate(network: CharRNN, tokens: np.ndarray) -> float:
    """Mean loss over a text, the state carried through."""
    h, losses = None, []
    for x, y in chunks(tokens, batch_size=8, length=64):
        loss, _, h = network.loss_and_gradients(x, y, h)
        losses.append(loss)
    return float(np.mean(losses))


def check_torch(run: Run) -> None:
    """torch.nn.RNN with the same weights: loss, gradients, truncation, steps of AdaGrad."""
    network = CharRNN(7, 5, rng=np.random.default_rng(run.seed))
    tokens = np.random.default_rng(1).integers(0, 7, 40)
    p = network.parameters
    rnn, head = nn.RNN(7, 5, batch_first=True).double(), nn.Linear(5, 7).double()
    as_torch = {
        "W": (rnn.weight_ih_l0, np.transpose),
        "U": (rnn.weight_hh_l0, np.copy),
        "b": (rnn.bias_ih_l0, np.copy),
        "V": (head.weight, np.copy),
        "c": (head.bias, np.copy),
    }
    with torch.no_grad():
        rnn.bias_hh_l0.zero_()
        for name, (parameter, layout) in as_torch.items():
            parameter.copy_(torch.from_numpy(layout(p[name]).copy()))
    rnn.bias_hh_l0.requires_grad_(False)  # torch has two biases that are only ever added
    theirs = torch.optim.Adagrad([q for q, _ in as_torch.values()], lr=0.1)
    ours = AdaGrad(p, lr=0.1)
    equal = run.against("torch.nn.RNN and autograd", atol=1e-12, why="float64 rounding")
    h, state, losses = None, None, ([], [])
    for number, (x, y) in enumerate(chunks(tokens, batch_size=2, length=6)):
        loss, gradients, h = network.loss_and_gradients(x, y, h)
        outputs, state = rnn(F.one_hot(torch.from_numpy(x), 7).double(), state)
        reference = F.cross_entropy(head(outputs).flatten(0, 1), torch.from_numpy(y).flatten())
        state = state.detach()  # truncation
        theirs.zero_grad()
        reference.backward()
        for name, (parameter, layout) in as_torch.items():
            if number < 2:
                which = ("first chunk", "second chunk, the state carried")[number]
                equal(f"gradient of {name}, {which}", layout(gradients[name]), parameter.grad)
        ours.step(gradients)
        theirs.step()
        for path, value in zip(losses, (loss, reference.item()), strict=True):
            path.append(value)
    equal("losses of three steps of AdaGrad", *losses)
