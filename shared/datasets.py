"""The data sets, as functions with typed returns.

Tables are read here, images in `shared.images`, texts in `shared.texts`, annotated texts in
`shared.corpora`; `shared.registry` finds, downloads and verifies the files. Everything public of
them can be had from this module.
Nothing that was downloaded is ever unpickled or evaluated.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from shared.corpora import (
    Cranfield,
    HardwareProblem,
    Word,
    analogies,
    blimp,
    cranfield,
    english_ewt,
    english_lemmas,
    porter_pairs,
    ros2_docs,
    verilog_benches,
    verilog_docs,
    verilog_eval,
    wnut17,
    word_similarity,
)
from shared.images import (
    Digits,
    Images,
    Views,
    cifar10,
    digits,
    fashion_mnist,
    mnist,
    nerf_lego,
    photographs,
)
from shared.registry import Dataset, File, cache_dir, fetch, note, path, registry
from shared.texts import (
    TEXTS,
    Document,
    LabeledSentence,
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
    from sklearn.utils import Bunch

__all__ = [
    "TEXTS",
    "Cranfield",
    "Dataset",
    "Digits",
    "Document",
    "File",
    "HardwareProblem",
    "Housing",
    "Images",
    "Income",
    "LabeledSentence",
    "SentencePair",
    "Views",
    "Word",
    "adult",
    "analogies",
    "blimp",
    "bundled",
    "cache_dir",
    "california_housing",
    "cifar10",
    "cranfield",
    "digits",
    "english_ewt",
    "english_lemmas",
    "fashion_mnist",
    "fetch",
    "load_text",
    "mnist",
    "multi30k",
    "names",
    "nerf_lego",
    "path",
    "photographs",
    "porter_pairs",
    "pydocs",
    "pydocs_text",
    "read_text_file",
    "registry",
    "ros2_docs",
    "sst2",
    "tinyshakespeare",
    "titanic",
    "verilog_benches",
    "verilog_docs",
    "verilog_eval",
    "wikipedia",
    "wikitext2",
    "wnut17",
    "word_similarity",
]

ADULT_COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status"),
    *("occupation", "relationship", "race", "sex", "capital_gain", "capital_loss"),
    *("hours_per_week", "native_country", "income"),
)


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


def bundled(name: Literal["breast_cancer", "diabetes", "iris", "wine"]) -> "Bunch":
    """Return a table that comes with scikit-learn, as its `load_…` functions do."""
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    note(f"scikit-learn's {name}", bunch.data.tobytes() + bunch.target.tobytes())
    return bunch


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
