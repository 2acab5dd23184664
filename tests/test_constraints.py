"""Pinned versions: each of them installs on the lowest Python that we allow, not only on the one that tests run on."""

import re
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
LOWEST = re.findall(r"^python_requires = >=([\d.]+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[0] + ".0"
INSTALLED = {canonicalize_name(d.metadata["Name"]) for d in distributions()}


@pytest.mark.parametrize("name", sorted(n for n in PINNED if canonicalize_name(n) in INSTALLED))
def test_pinned_versions_take_the_lowest_python(name):
    found = distribution(name)
    if found.version.partition("+")[0] != PINNED[name]:
        pytest.skip(f"another version is installed, {found.version}: see the workflow's job for the oldest ones")
    assert SpecifierSet(found.metadata.get("Requires-Python") or "").contains(LOWEST)


def test_most_pinned_versions_are_looked_at():
    assert sum(canonicalize_name(n) in INSTALLED for n in PINNED) > 20
