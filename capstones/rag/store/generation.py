"""A generation: vectors and words of one committed state, in files that never change.

    generations/000003/dense/vectors.faiss   every vector, exact: FAISS Flat, mapped into memory
                             index.faiss     proposes candidates, where vectors are many
                             rows.npy        the row of each vector, rising
                             MANIFEST.json   size and sha256 of each
    generations/000003/words/                week 12's BM25, an artifact too

Rows are never used twice. FAISS numbers vectors by place, which shifts when one is removed, so
`rows` translates. What is read whole is verified whole. Vectors are mapped so that opening is fast:
then only their length and first bytes are checked, all of them by `verify`.
"""

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from rag.store import index as indexes
from rag.types import Found
from shared import artifacts
from shared.artifacts import ArtifactError
from shared.files import sync_folder, write_synced
from shared.require import require
from week12.bm25 import BM25

VECTORS, INDEX, ROWS = "vectors.faiss", "index.faiss", "rows.npy"
HEAD = 4096
FEW = 1_000  # so few vectors are copied out and compared by themselves
SCAN_UP_TO = 20_000  # so few allowed rows are scored one by one, whatever the index


class Generation:
    """The files of a generation's folder; without a folder, no rows."""

    def __init__(self, folder: Path | None = None):
        self.folder, self.number = folder, int(folder.name) if folder else 0
        self.rows, self._flat, self._held = np.empty(0, np.int64), None, None
        if folder is None:
            return
        import faiss

        self._held = hold(folder)
        dense = folder / "dense"
        self._manifest = checked(dense)
        try:
            with (dense / ROWS).open("rb") as stream:
                self.rows = np.lib.format.read_array(stream, allow_pickle=False)
            # Mapped files stay readable after they were removed, as long as they are in use.
            self._flat = faiss.read_index(str(dense / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, ValueError, OSError) as error:
            why = str(error).splitlines()[0]
            raise ArtifactError(f"{dense} was altered or is torn ({why})") from error

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kind(self) -> str:
        """Of the index."""
        return self._manifest["metadata"]["kind"] if self.folder else "flat"

    @property
    def why(self) -> str:
        """Why it is of this kind."""
        return self._manifest["metadata"]["why"] if self.folder else "there are no vectors yet"

    @cached_property
    def bm25(self) -> BM25:
        """Week 12's index; its documents are the rows, in their order."""
        return self.copy_of_words()

    def copy_of_words(self) -> BM25:
        """The index of words, read anew: to be changed."""
        return BM25.load(self.folder / "words") if self.folder else BM25()

    @cached_property
    def _index(self):
        import faiss

        path = self.folder / "dense" / INDEX
        if digest(path) != self._manifest["files"][INDEX]["sha256"]:
            raise ArtifactError(f"{path} was altered or is torn")
        return faiss.read_index(str(path))

    # ---- search

    def dense(self, vector: np.ndarray, k: int, allowed: np.ndarray | None) -> Found:
        """Rows with the greatest inner products, among the allowed ones."""
        places = None if allowed is None else self.places(allowed)
        n = len(self) if places is None else len(places)
        k = min(k, n)
        if k == 0:
            return Found(np.empty(0, np.int64), np.empty(0, np.float32))
        query = np.ascontiguousarray(vector, np.float32)[None]
        if self.kind != "flat" and n > SCAN_UP_TO:
            found = self._candidates(query, 4 * k, allowed)
            if len(found) >= k:
                return self._exact(query, k, self.places(found))
        return self._exact(query, k, places)

    def _candidates(self, query: np.ndarray, k: int, allowed: np.ndarray | None) -> np.ndarray:
        import faiss

        options = {}
        if allowed is not None:
            ours = {"ivf": faiss.SearchParametersIVF, "sq8": faiss.SearchParametersIVF}
            make = ours.get(self.kind, faiss.SearchParametersHNSW)
            options["params"] = make(sel=faiss.IDSelectorBatch(allowed))
            if self.kind != "hnsw":
                options["params"].nprobe = self._index.nprobe
        rows = self._index.search(query, k, **options)[1][0]
        return np.sort(rows[rows >= 0])

    def _exact(self, query: np.ndarray, k: int, places: np.ndarray | None) -> Found:
        """Inner products with vectors at these places, or with all; of equals, lower rows first."""
        import faiss

        flat, n, options = self._flat, len(self), {}
        if places is not None:
            n = len(places)
            if n <= FEW:  # candidates: nothing here may take time that grows with the store
                flat = faiss.IndexFlatIP(self._flat.d)
                flat.add(self._flat.reconstruct_batch(places))
            else:
                chosen = np.zeros(len(self), bool)
                chosen[places] = True
                bits = np.packbits(chosen, bitorder="little")
                options["params"] = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        # FAISS keeps any of those that are equal to the last: look further until all are seen.
        depth = min(k + 16, n)
        while True:
            scores, found = (part[0] for part in flat.search(query, depth, **options))
            if depth == n or scores[-1] < scores[k - 1]:
                break
            depth = min(4 * depth, n)
        best = np.lexsort((found, -scores))[:k]
        found = found[best] if flat is self._flat else places[found[best]]
        return Found(self.rows[found], scores[best])

    def lexical(self, terms: Iterable[str], k: int, allowed: np.ndarray | None) -> Found:
        """Rows with the greatest BM25 above 0, among the allowed ones; of equals, the lower."""
        scores = self.bm25.scores(terms)
        if allowed is not None:
            chosen = np.zeros(len(self), bool)
            chosen[self.places(allowed)] = True
            scores = np.where(chosen, scores, 0)
        found = np.flatnonzero(scores)
        if len(found) > k:
            found = found[scores[found] >= np.partition(scores[found], -k)[-k]]
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return Found(self.rows[best], scores[best])

    def places(self, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " found"]:
        """Where these rows' vectors stand; rows that are not there are left out."""
        places = np.unique(np.searchsorted(self.rows, rows))
        places = places[places < len(self)]
        return places[np.isin(self.rows[places], rows)]

    def vectors(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m dim"]:
        """Vectors of rows, all of which must be there."""
        places = np.searchsorted(self.rows, rows)
        known = (places < len(self)) & (self.rows[np.minimum(places, len(self) - 1)] == rows)
        require(known.all(), "rows must be in the store", *rows[~known][:3])
        return self._flat.reconstruct_batch(places)

    def all_vectors(self) -> Float[np.ndarray, "n dim"]:
        """Every vector, mapped: valid as long as this object lives."""
        import faiss

        n, dim = self._flat.ntotal, self._flat.d
        return faiss.rev_swig_ptr(self._flat.get_xb(), n * dim).reshape(n, dim)

    # ---- files

    def verify(self) -> list[str]:
        """What is wrong with the files; every byte is read."""
        problems = []
        for part in ("dense", "words") if self.folder else ():
            try:
                artifacts.verify(self.folder / part)
            except ArtifactError as error:
                problems.append(str(error))
        return problems

    def close(self) -> None:
        """Let the files go: a writer may remove them now."""
        let_go(self._held)
        self._held = None


def write(folder: Path, rows: np.ndarray, vectors: np.ndarray, words: BM25, kind: str) -> None:
    """Write a generation and wait until it is on the disk."""
    import faiss

    dense = folder / "dense"
    dense.mkdir(parents=True)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, str(dense / VECTORS))
    kind, why = indexes.choose(kind, len(rows))
    if kind != "flat":
        faiss.write_index(indexes.build(kind, vectors, rows), str(dense / INDEX))
    np.save(dense / ROWS, rows)
    files = {}
    for path in sorted(dense.iterdir()):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[path.name] = {"sha256": digest(path), "bytes": path.stat().st_size}
    metadata = {"kind": kind, "why": why, "head": head_of(dense / VECTORS)}
    manifest = {"metadata": metadata, "files": files}
    write_synced(dense / artifacts.MANIFEST, artifacts.sealed(manifest))
    sync_folder(dense)
    words.save(folder / "words")
    sync_folder(folder)
    sync_folder(folder.parent)


def checked(dense: Path) -> dict:
    """The manifest, if the files are as long as it says and begin as it says."""
    try:
        manifest = artifacts.manifest_of(dense)
        for name, facts in manifest["files"].items():
            path = artifacts.inside(dense, name)
            same = path.stat().st_size == facts["bytes"]
            if name == ROWS:
                same = same and digest(path) == facts["sha256"]
            if name == VECTORS:
                same = same and head_of(path) == manifest["metadata"]["head"]
            if not same:
                raise ArtifactError(f"{name} was altered or is torn")
        return manifest
    except (ArtifactError, OSError) as error:
        raise ArtifactError(f"{dense} cannot be trusted: {error}; ingest again") from error


def head_of(path: Path) -> str:
    """Sha256 of a file's first bytes, which say what the others are."""
    with path.open("rb") as stream:
        return hashlib.sha256(stream.read(HEAD)).hexdigest()


def digest(path: Path) -> str:
    """Sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hold(folder: Path, *, alone: bool = False) -> int | None:
    """Mark a folder as in use until the descriptor is closed; None if `alone` cannot be had."""
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def let_go(descriptor: int | None) -> None:
    """End what `hold` began."""
    if descriptor is not None:
        os.close(descriptor)
