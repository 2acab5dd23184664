"""Searches of long records that are killed, and files that are not what they were: in the end the same result."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from wiener_records import record

from controlrnn.data import Dataset
from controlrnn.errors import TrainingError
from controlrnn.identification import Work, identify, identify_best
from controlrnn.identification.selection import finals
from controlrnn.identification.selection import search as searches
from controlrnn.identification.selection.finals import Kept
from controlrnn.identification.training.loop import Trainer
from controlrnn.models import Elman

DATA = Dataset((record(12000, 0), record(3000, 1)), (), (record(500, 2),))


def search(folder):
    work = Work(search=25, first=75, orders=1)
    return identify_best(DATA, budget=3.0, work=work, families=["free"], folder=folder)


def found(fit):
    """What has to be the same."""
    return fit.work, [(e.name, e.system.digest, e.error) for e in fit.entries], [t.candidate for t in fit.trials]


class KilledError(Exception):
    """End of a process."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search without a break, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return found(search(folder)), folder


def test_the_same_work_gives_the_same_models(whole):
    fit = whole[0]
    again = identify_best(DATA, budget=3.0, work=fit[0], families=["free"])
    assert found(again) == fit


@pytest.mark.parametrize("damage", [None, "damaged", pytest.param("of another fit", marks=pytest.mark.slow)])
def test_a_search_goes_on_within_its_final_fits(whole, tmp_path, monkeypatch, damage):
    """Killed in each final fit in turn; its checkpoint is there, damaged, or that of another fit."""
    fit, names, killed, firsts, checkpoints = finals.fit, [], set(), {}, []

    def killing(*arguments, stop, checkpoint, **options):
        names.append(checkpoint)
        count_one = stop.on_step

        def on_step(progress):
            firsts.setdefault(len(names), progress.step)
            count_one(progress)
            if progress.step == 4 and checkpoint not in killed:
                killed.add(checkpoint)
                raise KilledError

        stop.on_step = on_step
        return fit(*arguments, stop=stop, checkpoint=checkpoint, **options)

    monkeypatch.setattr(finals, "fit", killing)
    for _ in range(20):
        try:
            again = search(tmp_path)
            break
        except KilledError:
            checkpoints.append(names[-1].read_bytes())
            if damage is not None:
                names[-1].write_bytes(b"damaged" if damage == "damaged" else checkpoints[0])
    assert len(killed) >= 2
    assert found(again) == whole[0]
    if damage is None:
        assert max(firsts.values()) > 1  # a checkpoint was gone on from


@pytest.mark.parametrize("fit_is_stored", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_fit_that_had_come_to_its_end_counts(whole, tmp_path, monkeypatch, fit_is_stored):
    """Killed after the last step of a final fit, before the fit is stored or between it and its trial."""
    save, kept = Kept.save, []

    def killing(self, trial, fits):
        kept.append(trial)
        if len(kept) == 3:  # after the linear model and a network
            if fit_is_stored:
                fits[0].save(self._path("fit"))
            raise KilledError
        save(self, trial, fits)

    monkeypatch.setattr(Kept, "save", killing)
    with pytest.raises(KilledError):
        search(tmp_path)
    assert list(tmp_path.glob("checkpoint_*"))
    assert found(search(tmp_path)) == whole[0]


def swapped(kind):
    def swap(folder):
        files = sorted(folder.glob(f"{kind}_*.npz"))
        assert len(files) >= 2
        contents = [path.read_bytes() for path in files]
        for path, content in zip(files, contents[1:] + contents[:1], strict=True):
            path.write_bytes(content)

    return swap


def without_fits(folder):
    for path in folder.glob("fit_*.npz"):
        path.unlink()


@pytest.mark.parametrize("change", [swapped("fit"), swapped("trial"), without_fits], ids=["fits", "trials", "without"])
def test_files_of_other_pieces_are_not_used(whole, tmp_path, change):
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / "best.npz").unlink()
    change(tmp_path)
    assert found(search(tmp_path)) == whole[0]


def test_linear_models_of_networks_whose_trials_are_known_stay_entries(tmp_path, monkeypatch):
    """A network of another order brings a linear model with it, which is no less found when the search goes on."""
    few = searches.moves([2, 4], ridge=False)
    larger = next(m for one, m in pairwise([None, *few]) if m(searches.typical("free", 2, False)).nx > 2)
    monkeypatch.setattr(searches, "moves", lambda _orders, ridge: [few[0], larger])  # noqa: ARG005
    work = Work(search=60, first=20, orders=1)

    def run():
        return identify_best(DATA, budget=3.0, work=work, families=["free"], folder=tmp_path)

    first = found(run())
    assert len([c for c in first[2] if c.family == "linear"]) == 2
    (tmp_path / "best.npz").unlink()
    assert found(run()) == first


class CtrlC:
    """Ctrl-C at the first step."""

    def on_step(self, progress):  # noqa: ARG002  # a callback's signature
        raise KeyboardInterrupt

    def on_end(self, status):
        pass


def test_ctrl_c_before_anything_was_finite_is_no_failed_fit(monkeypatch):
    """A search would go on with the next candidate."""
    monkeypatch.setattr(Trainer, "validation_error", lambda _self: np.inf)
    few = Dataset((record(300, 0),), (record(300, 1),))
    with pytest.raises(KeyboardInterrupt):
        identify(Elman(nu=1, ny=1, nx=2, seed=0), few, steps=3, callbacks=[CtrlC()])
    with pytest.raises(TrainingError, match="no validation"):
        identify(Elman(nu=1, ny=1, nx=2, seed=0), few, steps=3)
