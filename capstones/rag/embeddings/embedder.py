"""Embedders by the name that a user gives them.

>>> open_embedder("minilm").dim
384
>>> open_embedder("word2vec")
Traceback (most recent call last):
shared.errors.UserError: embedder must be minilm, lsa or a folder of sentence-transformers, \
got 'word2vec'
"""

from pathlib import Path

from rag.types import Embedder
from shared.errors import UserError
from shared.require import require


def open_embedder(name: str = "minilm", *, saved: Path | None = None) -> Embedder:
    """The embedder of that name.

    Parameters
    ----------
    name
        `minilm`, `lsa`, or a folder as sentence-transformers saves it.
    saved
        Where an `lsa` that was fitted is saved; without, it has yet to be fitted.
    """
    if name == "minilm":
        from rag.embeddings.minilm import MiniLM

        return MiniLM()
    if name == "lsa":
        from rag.embeddings.lsa import LSA

        return LSA.load(saved) if saved else LSA()
    must = "embedder must be minilm, lsa or a folder of sentence-transformers"
    require((Path(name) / "modules.json").is_file(), must, repr(name), error=UserError)
    from rag.embeddings.folder import SentenceFolder

    return SentenceFolder(Path(name))
