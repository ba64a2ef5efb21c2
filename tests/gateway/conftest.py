"""What several tests of the gateway need beside the running service."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file for what a gateway of these tests writes to standard error."""
    return tmp_path_factory.mktemp("log") / "stderr"
