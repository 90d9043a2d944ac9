"""The data sets, as functions with typed returns.

Images and tables are read here, texts in `shared.texts`, and `shared.registry` finds, downloads and
verifies the files; everything public of the three can be had from this module. Nothing that was
downloaded is ever unpickled or evaluated.
"""

import gzip
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shared.errors import UserError
from shared.registry import Dataset, File, cache_dir, fetch, path, registry
from shared.texts import (
    TEXTS,
    Document,
    LabelledSentence,
    SentencePair,
    load_text,
    multi30k,
    names,
    pydocs,
    pydocs_text,
    read_text_file,
    sst2,
    tinyshakespeare,
    wikipedia,
    wikitext2,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TEXTS",
    "Dataset",
    "Digits",
    "Document",
    "File",
    "Housing",
    "Images",
    "Income",
    "LabelledSentence",
    "SentencePair",
    "adult",
    "cache_dir",
    "california_housing",
    "cifar10",
    "digits",
    "fashion_mnist",
    "fetch",
    "load_text",
    "mnist",
    "multi30k",
    "names",
    "path",
    "photographs",
    "pydocs",
    "pydocs_text",
    "read_text_file",
    "registry",
    "sst2",
    "texts",
    "tinyshakespeare",
    "titanic",
    "wikipedia",
    "wikitext2",
]

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR10_TEST_BATCH = 50
ADULT_COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status"),
    *("occupation", "relationship", "race", "sex", "capital_gain", "capital_loss"),
    *("hours_per_week", "native_country", "income"),
)


class Digits(NamedTuple):
    """Images (1797, 8, 8) float64 from 0 to 16, labels (1797,) int64 from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in a training and a test part.

    Attributes
    ----------
    train_images, test_images
        (n, height, width) or (n, height, width, 3) uint8, 0 (black) to 255.
    train_labels, test_labels
        (n,) uint8, indices into class_names.
    class_names
        The classes in the order of their labels.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Housing:
    """California housing: one row for each of 20,640 census districts, 1990.

    Attributes
    ----------
    features
        (20640, 8) float64, NaN where missing (total_bedrooms only).
    feature_names
        longitude and latitude (degrees), housing_median_age (years, 52 stands for more),
        total_rooms, total_bedrooms, population and households (counts), median_income (tens of
        thousands of dollars).
    ocean_proximity
        (20640,) str: ``<1H OCEAN``, ``INLAND``, ``ISLAND``, ``NEAR BAY`` or ``NEAR OCEAN``.
    target
        (20640,) float64, the median house value in dollars, 500,001 standing for more.
    """

    features: np.ndarray
    feature_names: tuple[str, ...]
    ocean_proximity: np.ndarray
    target: np.ndarray


class Income(NamedTuple):
    """Features (32561 rows, 14 columns) and target (32561,) bool: over 50,000 dollars a year."""

    features: "pd.DataFrame"
    target: np.ndarray


def digits() -> Digits:
    """Return scikit-learn's handwritten digits, which need no download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Digits(bunch.images, bunch.target)


def photographs() -> dict[str, np.ndarray]:
    """Return scikit-learn's photographs ``"china"`` and ``"flower"``, (427, 640, 3) uint8 each."""
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    return {
        Path(name).stem: np.asarray(image)
        for name, image in zip(bunch.filenames, bunch.images, strict=True)
    }


def mnist() -> Images:
    """Return MNIST: 60,000 training and 10,000 test images of (28, 28), in the original order."""
    train_images = np.concatenate(
        [_png(path("mnist", f"mnist_batch_{i}.png"), (3000, 784)) for i in range(20)]
    )
    return Images(
        train_images.reshape(60_000, 28, 28),
        _idx(path("mnist", "train-labels-idx1-ubyte.gz"), (60_000,)),
        _idx(path("mnist", "t10k-images-idx3-ubyte.gz"), (10_000, 28, 28)),
        _idx(path("mnist", "t10k-labels-idx1-ubyte.gz"), (10_000,)),
        tuple("0123456789"),
    )


def fashion_mnist() -> Images:
    """Return Fashion-MNIST: as `mnist`, with clothes (30 MB to download the first time)."""
    arrays = [
        _idx(path("fashion_mnist", f"{part}-{kind}-ubyte.gz"), (n, *shape))
        for part, n in (("train", 60_000), ("t10k", 10_000))
        for kind, shape in (("images-idx3", (28, 28)), ("labels-idx1", ()))
    ]
    return Images(*arrays, FASHION_CLASSES)


def cifar10(train_batches: int = 15) -> Images:
    """Return a part of CIFAR-10, in the original order.

    Parameters
    ----------
    train_batches
        How many thousands of the training images, 1 to 50 (2.3 MB each).

    Returns
    -------
    images
        train_images is (1000 train_batches, 32, 32, 3); test_images is **the first 1,000** of
        the 10,000 test images, the only ones this source holds.

    Raises
    ------
    ValueError
        train_batches is out of range.
    """
    if not 1 <= train_batches <= CIFAR10_TEST_BATCH:
        raise ValueError(
            f"train_batches must be between 1 and {CIFAR10_TEST_BATCH}, got {train_batches}"
        )

    def batch(number: int) -> np.ndarray:
        rows = _png(path("cifar10", f"cifar10_batch_{number}.png"), (1000, 1024, 3))
        return rows.reshape(1000, 32, 32, 3)

    labels = _cifar10_labels(path("cifar10", "cifar10_labels.js"))
    return Images(
        np.concatenate([batch(i) for i in range(train_batches)]),
        labels[: 1000 * train_batches],
        batch(CIFAR10_TEST_BATCH),
        labels[1000 * CIFAR10_TEST_BATCH :],
        CIFAR10_CLASSES,
    )


def california_housing() -> Housing:
    """Return the median house values of California's districts, with nothing filled in."""
    import pandas as pd

    table = pd.read_csv(path("california_housing", "housing.csv"))
    target = table.pop("median_house_value").to_numpy(np.float64)
    ocean_proximity = table.pop("ocean_proximity").to_numpy(np.str_)
    return Housing(table.to_numpy(np.float64), tuple(table.columns), ocean_proximity, target)


def adult() -> Income:
    """Return the Adult (census income) training table; ``?`` is read as missing."""
    import pandas as pd

    table = pd.read_csv(
        path("adult", "adult.data"),
        header=None,
        names=list(ADULT_COLUMNS),
        skipinitialspace=True,
        keep_default_na=False,
        na_values="?",
    )
    return Income(table, (table.pop("income") == ">50K").to_numpy(bool))


def titanic() -> "pd.DataFrame":
    """Return Kaggle's Titanic training table: 891 passengers, 12 columns, the target Survived."""
    import pandas as pd

    return pd.read_csv(path("titanic", "train.csv"))


def _png(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode an 8-bit PNG of the expected (rows, columns) or (rows, columns, 3)."""
    from PIL import Image

    with Image.open(file) as image:
        # Only the header has been read so far: a huge image is refused before it is decoded.
        expected = ("RGB" if len(shape) == 3 else "L", shape[1], shape[0])
        found = (image.mode, *image.size)
        if found != expected:
            raise UserError(f"{file} is an image of {found}, expected {expected}")
        return np.asarray(image)


def _idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode a gzipped idx file of unsigned bytes of the expected shape."""
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    with gzip.open(file) as stream:
        data = stream.read(size + 1)
    if len(data) != size or not data.startswith(header):
        raise UserError(f"{file} is not an idx file of unsigned bytes with the shape {shape}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


def _cifar10_labels(file: Path) -> np.ndarray:
    """Read ``var labels=[…];`` as JSON; the file is JavaScript, but is never run as such."""
    text = file.read_text(encoding="ascii").strip()
    labels = json.loads(text.removeprefix("var labels=").removesuffix(";"))
    if len(labels) != 51_000 or not all(type(x) is int and 0 <= x < 10 for x in labels):
        raise UserError(f"{file} does not hold 51,000 labels from 0 to 9")
    return np.array(labels, np.uint8)
