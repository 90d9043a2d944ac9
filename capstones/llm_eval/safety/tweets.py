"""The tweets the toxicity classifier learns from: cleaned, and split so that copies stay together.

24,783 tweets that contain a word of a hate lexicon, labeled by crowd workers: 0 hate, 1 offensive,
2 neither (Davidson et al., 2017). Four of five are called offensive, which says how they were
found, not how people write.

>>> plain("RT @ann: Look &amp; see https://t.co/x  &#128514;")
'Look & see'
>>> split_of("some tweet", seed=0), split_of("some tweet", seed=1)
('test', 'train')

Retweets and near-duplicates (week 15: half of their runs of five words) share a leader, and the
leader's hash says where all of them go. A model that is judged on a retweet of what it has read is
judged on its memory.

Source: Davidson, Warmsley, Macy and Weber, "Automated hate speech detection and the problem of
offensive language" (ICWSM 2017).
"""

import csv
import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Shaped

from shared import registry
from shared.errors import UserError
from shared.require import require

DATASET, FILE = "hate_speech_offensive", "labeled_data.csv"
PARTS: tuple[str, ...] = ("train", "calibration", "test")
SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Tweets:
    """Texts, whether each is toxic (hate or offensive), and the part it belongs to."""

    texts: tuple[str, ...]
    toxic: Bool[np.ndarray, " n"]
    part: Shaped[np.ndarray, " n"]
    digest: str

    def of(self, part: str) -> tuple[list[str], Bool[np.ndarray, " m"]]:
        """Texts and labels of one part."""
        chosen = self.part == part
        return [self.texts[i] for i in np.flatnonzero(chosen)], self.toxic[chosen]


def load_tweets(*, limit: int | None = None, seed: int = 0) -> Tweets:
    """The data set, split by `seed`; with a limit, only the first rows.

    Raises
    ------
    UserError
        The file is not there and cannot be fetched, or is not the one that is expected.
    """
    path = registry.path(DATASET, FILE)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))[:limit]
    if not rows or not {"class", "tweet"} <= rows[0].keys():
        raise UserError(f"{path} must be a table with the columns class and tweet")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    toxic = np.array([row["class"] != "2" for row in rows])
    return split([plain(row["tweet"]) for row in rows], toxic, seed=seed, digest=digest)


def split(
    texts: Sequence[str], toxic: Bool[np.ndarray, " n"], *, seed: int = 0, digest: str = ""
) -> Tweets:
    """Give each text its part, and near-duplicates the same."""
    from week15.deduplication import deduplicate

    require(len(texts) == len(toxic), "texts and toxic must be as many", len(texts), len(toxic))
    keys = [" ".join(re.findall(r"\w+", text.casefold())) for text in texts]
    leaders = deduplicate(keys, threshold=0.5).leader
    part = np.array([split_of(keys[leader], seed=seed) for leader in leaders])
    return Tweets(tuple(texts), toxic, part, digest)


def split_of(text: str, *, seed: int) -> Literal["train", "calibration", "test"]:
    """Where a text goes, by its hash: new texts move no old one."""
    content = hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(content[:8], "big") / 2**64
    if place < SHARES[0]:
        return "train"
    return "calibration" if place < SHARES[0] + SHARES[1] else "test"


def plain(text: str) -> str:
    """A tweet without addresses, names, retweet marks and emoji, which name people and times."""
    text = re.sub(r"&#\d+;?", " ", text)
    text = html.unescape(html.unescape(text))
    text = re.sub(r"https?:\S*|@\w+:?|\bRT\b:?", " ", text)
    return " ".join(text.split())
