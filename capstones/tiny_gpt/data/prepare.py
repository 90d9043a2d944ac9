"""From documents to token files: read once, deduplicate, split, learn a tokenizer, encode.

The order is the point. Copies go before the split, or validation asks what training has said; the
split goes before packing, and before the tokenizer is learned; and how much of the validation text
training has seen all the same is measured and written down.

The source is read once and staged on the disk, memory holds a few chunks of it (but a document is
never cut: the largest one has to fit). What is costly runs in processes that are given places in
the staged file and give back results in order, so the files are the same bytes whatever the number
of processes. They are written beside their target and renamed into place at the end::

    .NAME.preparing     being made; worthless after a crash, the next `prepare` clears it away
    NAME                the prepared folder (`tiny_gpt.data.shards`), the old one until that instant
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from shared.errors import UserError
from shared.files import locked, write_synced
from shared.require import require
from tiny_gpt.data.duplicates import Corpus, Measure, Span, texts_of
from tiny_gpt.data.leaks import overlap
from tiny_gpt.data.shards import ShardWriter, publish, refuse_to_replace_others, write_data_manifest
from tiny_gpt.data.sources import documents, shown
from tiny_gpt.data.text_settings import TextSettings
from tiny_gpt.data.tokenizers import Kind, Tokenizer, tokenizer_from_bytes, train_tokenizer
from tiny_gpt.data.workers import Workers
from tiny_gpt.seal import refuse_inside

__all__ = ["prepare"]

CHUNK_BYTES = 2**20
SAMPLE_BYTES = 20_000_000  # of the training documents, for BPE
LEAST_SHARE = 0.4  # of val_fraction, that a split by hash must reach to be chosen by itself
FEWEST_TO_HASH = 20  # documents; with less, the sizes of a split by hash are left to luck

Progress = Callable[[str, int, int | None], None]


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    shard_tokens: int = 2**27,
    progress: Progress = lambda stage, done, total: None,
    **text: Any,
) -> dict[str, Any]:
    """Make a prepared folder of a source; see `tiny_gpt.data.shards` for what is in it.

    Parameters
    ----------
    source
        As `tiny_gpt.data.sources.documents` reads it.
    out
        The folder; an older prepared one is replaced.
    seed
        Another one makes another split by hash.
    workers
        Processes; None for as many as there are cores, at most 8. A script that calls this with
        more than one must do so under `if __name__ == "__main__":`, as Python asks.
    progress
        Called with the stage, how many bytes are done, and of how many (None if not known).
    text
        What `TextSettings` takes. A character tokenizer gets the alphabet of both splits.

    Returns
    -------
    report
        What stands in ``report.json``: the same for the same source and options.

    Raises
    ------
    ValueError, UserError
        An option is out of range; source or target are wrong, or a split would be empty.
    """
    chosen = TextSettings(**text)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    require(workers >= 1, "workers must be at least 1", workers)
    require(shard_tokens >= 1, "shard_tokens must be at least 1", shard_tokens)
    train_tokenizer(chosen.tokenizer, [], vocab_size=chosen.vocab_size)  # now, not after hours

    stream = documents(source)
    out = Path(os.path.abspath(out))
    scrap = out.with_name(f".{out.name}.preparing")
    made = [folder for folder in scrap.parents if not folder.exists()]
    try:
        refuse_inside(out)
        refuse_to_replace_others(out)
        require(not scrap.is_symlink(), f"{scrap} must not be a link", error=UserError)
        scrap.mkdir(parents=True, exist_ok=True)
        with locked(scrap):  # two at once take turns
            scrap.mkdir(exist_ok=True)
            for leftover in scrap.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            try:
                staging = scrap / "data"
                staging.mkdir()
                near = chosen.near_duplicate if chosen.dedup == "minhash" else None
                corpus = Corpus(scrap, exact=chosen.dedup != "off", near=near)
                with Workers(workers) as pool, closing(corpus):
                    report = _make(
                        corpus, stream, staging, chosen, seed, shard_tokens, pool, progress
                    )
                # Without the folders it lies in, which do not change what is made of it.
                prefix = "hf:" if str(source).startswith("hf:") else ""
                name = Path(os.path.abspath(str(source).removeprefix(prefix))).name
                report = {"source": prefix + shown(name), **report}
                text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
                write_synced(staging / "report.json", text.encode() + b"\n")
                meta = {key: report[key] for key in ("source", "settings", "split", "splits")}
                write_data_manifest(staging, meta)
                publish(staging, out)
            finally:
                shutil.rmtree(scrap, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{out} cannot be prepared ({error.strerror or error})") from error
    finally:
        for folder in made:
            with suppress(OSError):  # it is in use: all went well
                folder.rmdir()
    return report


def _make(
    corpus: Corpus,
    stream: Iterable[Any],
    folder: Path,
    chosen: TextSettings,
    seed: int,
    shard_tokens: int,
    pool: Workers,
    progress: Progress,
) -> dict[str, Any]:
    """Write the token files and the tokenizer; returns the report."""
    salt = f"seed {seed}"
    measure = Measure(corpus.texts, corpus.near, chosen.val_fraction, salt)
    n_decided = 0
    for chunk, facts in pool.map(measure, corpus.stage(stream, CHUNK_BYTES)):
        corpus.decide(n_decided, facts)
        n_decided += len(facts)
        progress("read", sum(chunk[-1]), None)
    if not n_decided:
        raise UserError("the source holds no text")

    cut = _split(corpus, chosen.split, chosen.val_fraction)
    learned, how = _learn(corpus, chosen.tokenizer, chosen.vocab_size)
    write_synced(folder / "tokenizer.json", learned.to_bytes())
    splits = {}
    for split in ("train", "val"):
        writer = ShardWriter(folder, split, learned.sha256, learned.vocab_size, shard_tokens)
        splits[split] = _encode(corpus, writer, learned, pool, progress)
    return {
        "settings": asdict(chosen) | {"seed": seed},
        "read": {
            "documents": corpus.n_documents,
            "characters": corpus.one("SELECT sum(characters) FROM documents"),
            "bytes": corpus.n_bytes,
            "blank_documents_left_out": corpus.n_blank,
        },
        "duplicates": {kind: corpus.duplicates(kind) for kind in ("exact", "near")},
        "split": cut,
        "tokenizer": {
            "kind": learned.kind,
            "vocab_size": learned.vocab_size,
            "end_of_text": learned.end_of_text,
            "sha256": learned.sha256,
            "learned_from": how,
        },
        "splits": splits,
        "leaks": {
            "exact": corpus.exact_leaks(),
            "near": corpus.near_leaks(),
            **overlap(corpus, pool, CHUNK_BYTES, progress),
        },
    }


# ---- split


def _split(corpus: Corpus, how: str, val_fraction: float) -> dict[str, Any]:
    """Cut the corpus into pieces; returns which way was chosen, and why."""
    kept, validation, characters, held_out = corpus.database.execute(
        "SELECT count(*), sum(validation), sum(characters), sum(validation * characters) "
        "FROM documents WHERE copy_of IS NULL"
    ).fetchone()
    reason = "as asked"
    if how == "auto":
        how = "hash" if kept >= FEWEST_TO_HASH and 0 < validation < kept else "tail"
        reason = f"{kept} documents, by hash from {FEWEST_TO_HASH} on"
        if how == "tail" and kept >= FEWEST_TO_HASH:
            reason = f"a hash would put all of {kept} documents into one split"
        elif how == "hash" and held_out < LEAST_SHARE * val_fraction * characters:
            how, share = "tail", held_out / characters
            reason = f"a hash would hold out only {share:.1%} of the text: few, unequal documents"
    if how == "hash":
        if not 0 < validation < kept:
            empty = "train" if validation else "val"
            raise UserError(
                f"a split by hash leaves {empty} without any of {kept} documents; "
                "use the split tail, or another seed"
            )
        corpus.split_by_hash()
        return {"kind": "hash", "reason": reason}
    at = int((1 - val_fraction) * characters)
    if not 0 < at < characters:
        raise UserError(f"{characters} characters are too few for two splits")
    return {"kind": "tail", "reason": reason, "at": at, "cut_document": corpus.split_at(at)}


# ---- tokenizer


def _learn(corpus: Corpus, kind: Kind, vocab_size: int) -> tuple[Tokenizer, str]:
    if kind == "char":
        pieces = chain(corpus.pieces("train"), corpus.pieces("val"))
        texts = texts_of(corpus.texts, (Span(*row) for row in pieces))
        kept = corpus.one("SELECT count(*) FROM documents WHERE copy_of IS NULL")
        # Of one text there is nothing to tell apart: 65 characters are 65 ids.
        found = train_tokenizer(kind, texts, end_of_text=kept > 1)
        return found, "the alphabet of both splits"
    if kind == "byte":
        return train_tokenizer(kind, []), "nothing"
    size = corpus.one("SELECT sum(bytes) FROM pieces WHERE split = 'train'")
    how = f"{min(size, SAMPLE_BYTES)} of {size} bytes of the training documents"
    return train_tokenizer(kind, _sample(corpus), vocab_size=vocab_size), how


def _sample(corpus: Corpus) -> Iterator[str]:
    """Training documents in the order of their hashes, up to a number of bytes."""
    left = SAMPLE_BYTES
    rows = corpus.database.execute(
        "SELECT p.start, p.bytes FROM documents d JOIN pieces p ON p.document = d.id "
        "WHERE p.split = 'train' ORDER BY d.fingerprint, p.id"
    )
    with corpus.texts.open("rb") as stream:
        for start, n_bytes in rows:
            stream.seek(start)
            data = stream.read(min(n_bytes, left))
            yield data.decode("utf-8", "ignore")  # the last one may end inside a character
            left -= n_bytes
            if left <= 0:
                return


@dataclass(frozen=True)
class Encode:
    """Tokens of texts, in whatever process."""

    texts: Path
    tokenizer: bytes

    def __call__(self, spans: Sequence[Span]) -> list[Integer[np.ndarray, " _"]]:
        tokenizer = _tokenizer(self.tokenizer)
        close = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        return [
            np.concatenate([tokenizer.encode(text), close]).astype(dtype)
            for text in texts_of(self.texts, spans)
        ]


# By content: a process outlives the chunks, and a tokenizer knows the words it has met.
_tokenizer = lru_cache(maxsize=1)(tokenizer_from_bytes)


def _encode(
    corpus: Corpus, writer: ShardWriter, tokenizer: Tokenizer, pool: Workers, progress: Progress
) -> dict[str, Any]:
    characters, total = corpus.database.execute(
        "SELECT sum(characters), sum(bytes) FROM pieces WHERE split = ?", (writer.split,)
    ).fetchone()
    encode = Encode(corpus.texts, tokenizer.to_bytes())
    with writer:
        for chunk, found in pool.map(encode, corpus.chunks(writer.split, CHUNK_BYTES)):
            for span, tokens in zip(chunk, found, strict=True):
                writer.append(tokens, span.n_bytes)
            progress(f"encode {writer.split}", writer.n_bytes, total)
    return {
        "documents": writer.n_documents,
        "characters": characters,
        "bytes": writer.n_bytes,
        "tokens": writer.n_tokens,
        "bytes_per_token": writer.n_bytes / writer.n_tokens,
    }
