"""What is made on one processor is verified and used on every other: models, certificates, parts of controllers."""

import json
from pathlib import Path

import numpy as np
import pytest
from kernels import KERNELS, REASON, run_under

from controlrnn.certification.certificate import CERTIFICATE_KINDS

SCRIPT = str(Path(__file__).with_name("portable_folder.py"))
PLACES = list(zip(KERNELS, (1, 2, 1), strict=False))  # with a number of threads each
OTHERS = 14  # things done with a folder, besides verifying one certificate of every kind


def differ(folders, name, array):
    with_bits = set()
    for folder in folders:
        with np.load(folder / name) as archive:
            with_bits.add(archive[array].tobytes())
    return len(with_bits) > 1


# One test, so that the work is done once, however many processes the tests are dealt out to.
@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_nothing_that_one_processor_makes_is_refused_by_another(tmp_path):
    assert len(PLACES) >= 3
    made = {kernel: tmp_path / kernel for kernel, _ in PLACES}
    for folder in made.values():
        folder.mkdir()
    run_under([([SCRIPT, "make", str(made[kernel])], kernel, threads) for kernel, threads in PLACES])

    # Or the rest would prove nothing: models, bounds and inputs of different processors have different bits.
    assert differ(made.values(), "r2dn.npz", "C1")
    assert differ(made.values(), "washout/certificate.npz", "bounds")
    assert len({np.load(folder / "innovation" / "inputs.npy").tobytes() for folder in made.values()}) > 1

    everything = [str(folder) for folder in made.values()]
    texts = run_under([([SCRIPT, "use", *everything], kernel, threads) for kernel, threads in PLACES])
    for (here, _), text in zip(PLACES, texts, strict=True):
        for there, folder in made.items():
            outcome = json.loads(text)[str(folder)]
            assert outcome["refused"] == {}, f"made under {there}, used under {here}"
            systems = list((folder / "certificates").glob("*.system.npz"))
            assert len(systems) >= len(CERTIFICATE_KINDS)
            assert len(outcome["done"]) == len(systems) + OTHERS
