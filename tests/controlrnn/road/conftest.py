"""A finished road on a small tank, and copies of it for tests that change something."""

import shutil

import pytest
from small_road import DONE, drive, write_road


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with a finished road; tests that change something take a copy."""
    place = tmp_path_factory.mktemp("road")
    write_road(place)
    seen = drive(place)
    assert seen.made == DONE
    assert seen.moved[-1] == (4, 4)
    return place


@pytest.fixture
def place(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"
