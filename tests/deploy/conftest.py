import pytest

from tests.deploy.launcher import Pins, read_pins


@pytest.fixture(scope="session")
def pins() -> Pins:
    return read_pins()
