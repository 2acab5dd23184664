"""What is made on one processor is verified and used on every other: models, certificates, parts of controllers."""

import json
from pathlib import Path

import numpy as np
import pytest
from kernels import KERNELS, REASON, run_under

from controlrnn.certification.certificate import _KINDS

SCRIPT = str(Path(__file__).with_name("portable_folder.py"))
THREADS = (1, 2, 1)
PLACES = list(zip(KERNELS, THREADS, strict=False))
OTHERS = 14  # things done with a folder, besides verifying one certificate of every kind

pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    made = {kernel: root / kernel for kernel, _ in PLACES}
    for folder in made.values():
        folder.mkdir()
    run_under([([SCRIPT, "make", str(made[kernel])], kernel, threads) for kernel, threads in PLACES])
    return made


@pytest.fixture(scope="module")
def used(folders):
    """By where it was made and where it was used, what was done and refused."""
    everything = [str(folder) for folder in folders.values()]
    texts = run_under([([SCRIPT, "use", *everything], kernel, threads) for kernel, threads in PLACES])
    found = {kernel: json.loads(text) for (kernel, _), text in zip(PLACES, texts, strict=True)}
    return {(there, here): found[here][str(folders[there])] for there in folders for here in found}


def test_at_least_three_processors_take_part(used):
    assert len(PLACES) >= 3
    assert len(used) == len(PLACES) ** 2


def test_the_processors_differ(folders):
    """Or this proves nothing: models, bounds and inputs of different kernels have different bits."""
    for name, array in (("r2dn.npz", "C1"), ("washout/certificate.npz", "bounds")):
        bits = set()
        for folder in folders.values():
            with np.load(folder / name) as archive:
                bits.add(archive[array].tobytes())
        assert len(bits) > 1, name
    assert len({np.load(folder / "innovation" / "inputs.npy").tobytes() for folder in folders.values()}) > 1


@pytest.mark.parametrize("there", [kernel for kernel, _ in PLACES])
@pytest.mark.parametrize("here", [kernel for kernel, _ in PLACES])
def test_nothing_is_refused(there, here, folders, used):
    outcome = used[there, here]
    assert outcome["refused"] == {}
    systems = list((folders[there] / "certificates").glob("*.system.npz"))
    assert len(systems) >= len(_KINDS)
    assert len(outcome["done"]) == len(systems) + OTHERS
