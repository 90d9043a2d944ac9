"""The standard suites of langchain-tests use marks of two plugins that are switched off here."""


def pytest_configure(config):
    for mark in ("benchmark", "vcr"):
        config.addinivalue_line("markers", f"{mark}: of pytest-{mark}, which is off")
