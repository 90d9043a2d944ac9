"""How many words per second beside gensim? Both on one thread, in turns.

uv run study bench 12
"""

import statistics
import time

import torch
from threadpoolctl import threadpool_limits

from shared.require import require
from week12.word2vec import Word2Vec, read

DIM = 100


def bench(repeats: int = 3) -> dict:
    """One epoch of skip-gram with five noise words by both; medians of the seconds.

    The text is drawn: 100,000 words by Zipf's law in lines of 20, of which those that occur five
    times are learned. Window 5 and subsampling at 1e-3, as in gensim's defaults.

    Parameters
    ----------
    repeats
        How often each is trained, in turns; one more round warms up.
    """
    from gensim.models import Word2Vec as Gensim

    require(repeats >= 1, "repeats must be at least 1", repeats)
    generator = torch.Generator().manual_seed(0)
    ids = torch.multinomial(1 / torch.arange(1, 5001.0), 100_000, True, generator=generator)
    text = [[f"w{chr(97 + i % 26)}{i}" for i in line] for line in ids.view(-1, 20).tolist()]
    corpus = read(text)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for _ in range(repeats + 1):
                ours = Word2Vec(corpus.counts, DIM, generator=generator)
                theirs = Gensim(vector_size=DIM, sg=1, workers=1)
                theirs.build_vocab(text)
                start = time.perf_counter()
                loss = ours.fit(corpus, epochs=1)[0]
                middle = time.perf_counter()
                theirs.train(text, total_examples=len(text), epochs=1)
                seconds["theirs"].append(time.perf_counter() - middle)
                seconds["ours"].append(middle - start)
    finally:
        torch.set_num_threads(threads)
    n = len(corpus.tokens)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    per_second = [f"{n / medians[name]:,.0f}" for name in ("ours", "theirs")]
    return {
        "name": f"word2vec, skip-gram with noise, {DIM} numbers, against gensim, one thread",
        "ours_seconds": medians["ours"],
        "reference_seconds": medians["theirs"],
        "ratio": medians["ours"] / medians["theirs"],
        "limit": 3.0,
        "equal_work": f"{per_second[0]} and {per_second[1]} words per second; loss {loss:.2f}",
    }
