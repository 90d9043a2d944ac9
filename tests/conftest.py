"""Shapes are enforced, nothing is fetched, and property tests are the same on every run."""

import os

os.environ.setdefault("ML_STUDIES_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
from browser import chromium
from enforce import PACKAGES
from jaxtyping import install_import_hook
from suite_record import pytest_addoption, pytest_terminal_summary  # noqa: F401

# Every annotation of a week's functions is checked at each call, jaxtyping's shapes included.
hook = install_import_hook(PACKAGES, "enforce.typechecker")

hypothesis.settings.register_profile(
    "study",
    deadline=None,
    max_examples=25,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # that judges the machine
)
bugs = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # any failure will do: no shrinking
hypothesis.settings.register_profile(
    "bugs", hypothesis.settings.get_profile("study"), phases=bugs, report_multiple_bugs=False
)
hypothesis.settings.load_profile("bugs" if "STUDY_BUGS" in os.environ else "study")


def pytest_configure(config):
    """One thread a worker: workers are the parallelism."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A headless Chromium, one for each file of tests."""
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found
