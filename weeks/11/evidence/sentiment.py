"""The LSTM beside counts of words on the same sentences, with a test that pairs them."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils import rnn

from shared import datasets, plots
from shared.stats import paired_bootstrap
from shared.study import PositiveInt, Run
from week11.batches import length_buckets, pad
from week11.sentiment import PAD, SentimentLSTM, Vocabulary, importance, predict, train


def main(run: Run, *, epochs: PositiveInt = 3, seeds: PositiveInt = 3) -> None:
    """Train on SST-2 and compare on its test sentences.

    Parameters
    ----------
    epochs
        Times that the sentences are read.
    seeds
        Networks trained.
    """
    n = run.budget(quick=128, default=6920)
    data = {name: rows[:n] for name, rows in datasets.sst2().items()}
    epochs, seeds = run.budget(quick=1, default=epochs), run.budget(quick=2, default=seeds)
    text = {name: [row.sentence for row in rows] for name, rows in data.items()}
    label = {name: np.array([row.label for row in rows]) for name, rows in data.items()}
    words = Vocabulary(text["train"])
    rows = {name: [words.encode(sentence) for sentence in text[name]] for name in text}
    check_torch(run, rows["dev"][:8])

    right: dict[str, np.ndarray] = {
        name: predicted == label["test"] for name, predicted in counted(text, label).items()
    }
    found: dict[str, list[np.ndarray]] = {"LSTM": [], "shuffled": []}
    for seed in run.progress(range(run.seed, run.seed + seeds), "seeds"):
        for name, results in found.items():
            generator = torch.Generator().manual_seed(seed)
            torch.manual_seed(seed)
            model = SentimentLSTM(len(words), d_model=64, hidden_size=64)
            y = torch.tensor(label["train"]).float()
            if name == "shuffled":
                y = y[torch.randperm(len(y), generator=generator)]
            train(model, rows["train"], y, epochs=epochs, generator=generator)
            results.append((predict(model, rows["test"]) > 0).numpy() == label["test"])
            if name == "LSTM":
                reader = model
    unit = {"unit": "points of accuracy", "quick": False}
    majority = 100 * max(label["test"].mean(), 1 - label["test"].mean())
    learns = "the LSTM learns to tell kind from unkind"
    run.claim(learns, [100 * r.mean() - majority for r in found["LSTM"]], at_least=20, **unit)
    shuffled = [100 * r.mean() - majority for r in found["shuffled"]]
    run.falsifier("trained on shuffled labels", shuffled, breaks=learns)
    for name, baseline in right.items():
        run.metric(f"{name}: accuracy", 100 * baseline.mean(), "%")
    run.metric("LSTM: accuracy", 100 * np.mean(found["LSTM"]), "%", rtol=0.03)
    gain = paired_bootstrap(
        100 * np.mean(found["LSTM"], axis=0), 100 * right["naive Bayes"], rng=run.rng
    )
    run.claim("the LSTM beats naive Bayes on the test sentences", gain, at_least=0, **unit)
    run.metric("padding, lengths mixed", 100 * padding(rows["train"], mixed=True), "%")
    run.metric("padding, lengths sorted", 100 * padding(rows["train"], mixed=False), "%")
    draw(run, reader, words)


def counted(text: dict, label: dict) -> dict[str, np.ndarray]:
    """Predictions of two models of counts of words and of pairs, their strength tuned on dev."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB

    counts = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), binary=True)
    X = {"train": counts.fit_transform(text["train"])}
    X |= {name: counts.transform(text[name]) for name in ("dev", "test")}

    def best(models):
        fitted = [model.fit(X["train"], label["train"]) for model in models]
        scores = [model.score(X["dev"], label["dev"]) for model in fitted]
        return fitted[int(np.argmax(scores))].predict(X["test"])

    return {
        "naive Bayes": best([MultinomialNB(alpha=a) for a in (0.25, 0.5, 1.0, 2.0)]),
        "logistic regression": best(
            [LogisticRegression(C=c, max_iter=300) for c in (0.03, 0.1, 0.3, 1.0)]
        ),
    }


def padding(rows: list[list[int]], *, mixed: bool) -> float:
    """Share of a batch of 64 that is padding."""
    lengths = [len(row) for row in rows]
    order = torch.arange(len(rows)).split(64) if mixed else length_buckets(lengths, 64)
    longest = [max(lengths[i] for i in batch.tolist()) * len(batch) for batch in order]
    return 1 - sum(lengths) / sum(longest)


def check_torch(run: Run, rows: list[list[int]]) -> None:
    """The same network of torch's parts, packed: logits and gradients."""
    torch.manual_seed(run.seed)
    model = SentimentLSTM(1 + max(map(max, rows)), d_model=6, hidden_size=5).double().eval()
    twin = nn.LSTM(6, 5, batch_first=True, bidirectional=True).double()
    twin.load_state_dict(model.lstm.state_dict())
    tokens, lengths = pad(rows, PAD)
    packed = rnn.pack_padded_sequence(
        model.embedding(tokens), lengths, batch_first=True, enforce_sorted=False
    )
    outputs, _ = rnn.pad_packed_sequence(
        twin(packed)[0], batch_first=True, padding_value=-torch.inf
    )
    theirs = model.out_proj(outputs.amax(dim=1))[:, 0]
    ours = model(tokens, lengths)
    equal = run.against("torch.nn.LSTM, packed", atol=1e-10, why="float64 rounding")
    equal("logits of eight sentences", ours, theirs)
    gradients = [
        torch.autograd.grad(logits.sum(), model.embedding.weight, retain_graph=True)[0]
        for logits in (ours, theirs)
    ]
    equal("gradient of the word vectors", *gradients)


def draw(run: Run, model: SentimentLSTM, words: Vocabulary) -> None:
    """Words of four sentences, left out one by one."""
    sentences = (
        "a charming and often affecting journey",
        "the plot is dull and the jokes are not funny",
        "it is not a bad film",
        "nothing here is good except the music",
    )
    shares = torch.zeros(len(sentences), max(len(s.split()) for s in sentences))
    for row, sentence in zip(shares, sentences, strict=True):
        found = importance(model, words.encode(sentence))
        row[: len(found)] = found
    with run.figure("words", "How much each word adds to the logit of kind", size=(8, 3)) as axes:
        limit = float(shares.abs().max())
        limits = {"limits": (-1.3 * limit, 1.3 * limit), "cmap": "RdBu"}
        plots.heat_map(axes, shares, label="logit lost without the word", **limits)
        axes.set(xticks=[], yticks=[])
        for i, sentence in enumerate(sentences):
            for j, word in enumerate(sentence.split()):
                axes.text(j, i, word, ha="center", va="center", fontsize=8)
