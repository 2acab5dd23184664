"""Bad input to every public name: refused before any work, by a message that says what, got, expected and what to do.

Each row of `CASES` is a call on the `Kit`, the class of the error, and pieces that its message must contain.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlrnn import records
from controlrnn.certification import (
    ContractionCertificate,
    HorizonCertificate,
    attack_horizon,
    certify_contraction,
    certify_horizon,
    execution_error,
    load_certificate,
)
from controlrnn.data import Dataset, Signal, Trajectory, benchmarks
from controlrnn.errors import (
    CertificationError,
    ControlRnnError,
    DataError,
    FileFormatError,
    InfeasibleError,
    MissingDataError,
    SettingError,
    ShapeError,
    SignatureError,
)
from controlrnn.export import load_system, save_system, to_c, to_casadi
from controlrnn.identification import (
    FitResult,
    SimulationError,
    estimate_initial_state,
    fit_percent,
    identify,
    identify_arx,
    identify_subspace,
    nrmse,
    rmse,
    score,
)
from controlrnn.models import LSTM, LTI, ContractingR2DN, Elman
from controlrnn.systems import LureSystem
from mpc import (
    Adaptation,
    ClosedLoopResult,
    ClosedLoopSetup,
    CoveragePromise,
    DelayedPlant,
    LoopEffort,
    ModelError,
    Operation,
    PlausibilityLimits,
    Predictor,
    RunningOn,
    StateError,
    TightenedMPC,
    Tightening,
    Washout,
    Watching,
    anytime_interval,
    back_off,
    calibrate,
    calibrate_closed_loop,
    clopper_pearson,
    monte_carlo,
    no_tightening,
    run_closed_loop,
    steady_input,
    tighten,
)
from mpc.control.settings import grouped
from mpc.loops.settings import loop_settings
from plants import CascadedTanks, MassSpringDamperChain, MultiTank, QuadrupleTank, excitation, simulate

NAN = float("nan")
TANK = MultiTank()


def elman(seed: int = 0) -> LureSystem:
    """Two inputs, three outputs and the sample time of the three tanks; contracts in the 2-norm."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((3, 3))
    return LureSystem(
        A=np.zeros((3, 3)), B1=np.eye(3), B2=np.zeros((3, 2)), bx=np.zeros(3),
        C1=0.5 * W / np.linalg.norm(W, 2), D11=np.zeros((3, 3)), D12=0.2 * rng.standard_normal((3, 2)), bv=np.zeros(3),
        C2=rng.standard_normal((3, 3)), D21=np.zeros((3, 3)), D22=np.zeros((3, 2)), by=np.full(3, 30.0),
        layers=(3,), dt=TANK.dt,
    )  # fmt: skip


def record(T: int = 60, nu: int = 2, ny: int = 3, dt: float = TANK.dt, seed: int = 0) -> Trajectory:
    rng = np.random.default_rng(seed)
    return Trajectory(rng.standard_normal((T, nu)), rng.standard_normal((T, ny)), dt, name="lab 7")


class Sluggish(MultiTank):
    """Pumps that need their time."""

    move_limit = 0.5


@dataclass
class Kit:
    """Valid parts, of which each case spoils one."""

    tmp: Path

    system = elman()
    linear = replace(elman(), C2=np.full((3, 3), 2.0))
    other = elman(seed=1)
    open_system = Elman(nu=2, ny=3, nx=2).system()  # tensors, not frozen
    dataset = Dataset((record(),), (record(seed=1),))

    @cached_property
    def contraction(self) -> ContractionCertificate:
        return certify_contraction(self.system)

    @cached_property
    def certificate(self) -> HorizonCertificate:
        return certify_horizon(self.system, 4, initial_radius=1.0, input_radius=0.1, iterations=5)

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.system, TANK.inputs, TANK.outputs)

    @cached_property
    def observer(self) -> Washout:
        return Washout(self.predictor, 20, contraction=self.contraction, input_error=0.01)

    @cached_property
    def model_error(self) -> ModelError:
        return self.calibrate()

    @cached_property
    def controller(self) -> TightenedMPC:
        return self.mpc()

    def certify(self, **change: Any) -> HorizonCertificate:
        return certify_horizon(change.pop("system", self.system), **{"horizon": 3, "initial_radius": 1.0} | change)

    def executed(self, **change: Any) -> dict[str, Any]:
        given = {"input_range": (-np.ones(2), np.ones(2)), "state_range": (-np.ones(3), np.ones(3))}
        return given | {"contraction": self.contraction} | change

    def attack(self, **change: Any) -> Any:
        low, high = np.zeros(2), np.ones(2)
        given = {"initial_radius": 1.0, "input_range": (low, high), "seed": 0}
        return attack_horizon(change.pop("system", self.system), 2, **given | change)

    def calibrate(self, n: int = 9, T: int = 60, **change: Any) -> ModelError:
        records = [record(T, seed=s) for s in range(n + 3)]
        given = {"horizon": 4, "washout": 20, "scale_trajectories": records[n:], "coverage": 0.9}
        return calibrate(self.system, change.pop("trajectories", records[:n]), **given | change)

    def mpc(self, tightening: Tightening | None = None, **change: Any) -> TightenedMPC:
        room = no_tightening(self.system.digest, 4, 3) if tightening is None else tightening
        given = {"output_weight": 1.0, "input_move_weight": 1.0}
        return TightenedMPC(
            change.pop("predictor", self.predictor),
            change.pop("observer", self.observer),
            room,
            **grouped(given | change),
        )

    def loop(self, plant: Any = TANK, **change: Any) -> ClosedLoopResult:
        given = {"reference": [30.0, 20.0, 10.0], "steps": 2, "seed": 0}
        return run_closed_loop(plant, self.controller, **loop_settings(given | change))

    def system_of(self, **change: Any) -> LureSystem:
        return replace(self.system, **change)

    def saved(self, name: str = "system.npz") -> Path:
        path = self.tmp / name
        save_system(self.system, path)
        return path

    def damaged(self, save: Callable[[Path], Any]) -> Path:
        """A file with one bit flipped in the middle of its numbers."""
        path = self.tmp / "damaged.npz"
        save(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
        return path

    def forged_system(self) -> Path:
        """A model file with another weight, whose checksum was made to fit; the named digest was not."""
        path = self.saved()
        kind, version, arrays, meta = records.read_record(path)
        records.write_record(path, kind, version, arrays | {"by": arrays["by"] * np.nan}, meta)
        return path

    def forged_certificate(self) -> HorizonCertificate:
        """A certificate whose bounds were lowered, checksum and all: a claim that only a proof can refuse."""
        path = self.tmp / "certificate.npz"
        self.certificate.save(path)
        kind, version, arrays, meta = records.read_record(path)
        records.write_record(path, kind, version, arrays | {"bounds": 0.9 * arrays["bounds"]}, meta)
        forged = load_certificate(path)
        assert isinstance(forged, HorizonCertificate)
        return forged

    def wrong_benchmark(self) -> Path:
        (self.tmp / "mnist").mkdir()
        for name in benchmarks.BENCHMARKS["mnist"].files:
            (self.tmp / "mnist" / name).write_bytes(gzip.compress(b"not digits"))
        return self.tmp

    def text(self) -> Path:
        path = self.tmp / "notes.txt"
        path.write_text("no record")
        return path


Case = tuple[str, Callable[[Kit], Any], type[Exception], tuple[str, ...]]

PLANTS: list[Case] = [
    ("three inputs for two pumps", lambda _: simulate(TANK, np.ones((9, 3))), ShapeError,
     ("u must have shape", "2)", "got (9, 3)", "pump 1 [L/min]")),
    ("no time axis", lambda _: simulate(TANK, np.ones(2)), ShapeError, ("(T, 2)", "got (2,)", "time axis")),
    ("NaN input", lambda _: simulate(TANK, np.full((9, 2), NAN)), DataError, ("u must be finite", "18 NaN", "(0, 0)")),
    ("pump beyond its limit", lambda _: simulate(TANK, np.full((9, 2), 5.0)), DataError,
     ("u[0, 0] must lie in [0, 4]", "pump 1 [L/min]", "got 5")),
    ("one sample", lambda _: simulate(TANK, np.ones((1, 2))), DataError, ("at least 2 samples", "got 1")),
    ("short disturbance", lambda _: simulate(TANK, np.ones((9, 2)), disturbance=np.zeros((8, 3))), ShapeError,
     ("disturbance must have shape (9, 3)", "got (8, 3)", "one row per sample")),
    ("two starts for one run", lambda _: simulate(TANK, np.ones((9, 2)), np.ones((2, 3))), ShapeError,
     ("x0 must have shape (3,)", "got (2, 3)")),
    ("level above the rim", lambda _: simulate(TANK, np.ones((9, 2)), np.full(3, 80.0)), DataError,
     ("x0[0] must lie in [0, 65]", "level 1 [cm]", "got 80")),
    ("two inputs before one run", lambda _: simulate(TANK, np.ones((9, 2)), u_before=np.ones((3, 2))), ShapeError,
     ("u_before must have shape (2,)", "got (3, 2)")),
    ("a timing that is none", lambda _: replace(record(), timing="later"), SettingError,
     ("timing must be one of", "'measured_first'", "got 'later'")),
    ("negative noise", lambda _: simulate(TANK, np.ones((9, 2)), noise_std=-1.0), SettingError, ("noise_std", ">= 0")),
    ("input is text", lambda _: simulate(TANK, [["a", "b"]]), DataError, ("u must be an array of numbers", "list")),
    ("unknown keyword", lambda _: simulate(TANK, np.ones((9, 2)), noise=1.0), TypeError, ("'noise'",)),
    ("set point out of reach", lambda _: TANK.equilibrium_input([64.0, 5.0, 1.0]), InfeasibleError, ("y = ", "input")),
    ("no tank", lambda _: MultiTank(0), SettingError, ("n_tanks", ">= 1", "got 0")),
    ("negative area", lambda _: MultiTank(area=-1.0), SettingError, ("area", "positive", "-1.0")),
    ("limit above the rim", lambda _: MultiTank(level_limit=70.0), InfeasibleError, ("height", "lower the limit")),
    ("negative sample time", lambda _: QuadrupleTank(dt=-1.0), SettingError, ("dt", "positive")),
    ("sample time is NaN", lambda _: CascadedTanks(dt=NAN), SettingError, ("dt", "finite", "nan")),
    ("half a mass", lambda _: MassSpringDamperChain(1.5), SettingError, ("n_masses", "whole number", "1.5")),
    ("excitation without limits", lambda _: excitation.prbs(9, [Signal("u")], seed=0), DataError,
     ("limits must be finite", "inf", "(lower, upper)")),
    ("swapped limits", lambda _: excitation.random_steps(9, [(2.0, 1.0)], hold=3, seed=0), InfeasibleError,
     ("lower < upper", "swap")),
    ("hold longest before shortest", lambda _: excitation.random_steps(9, [(0, 1)], hold=(9, 2), seed=0), SettingError,
     ("hold", "(9, 2)")),
    ("empty band", lambda _: excitation.multisine(64, [(0, 1)], band=(0.4, 0.1), seed=0), SettingError,
     ("band", "widen")),
    ("no samples", lambda _: excitation.multisine(0, [(0, 1)], seed=0), SettingError, ("length", ">= 4", "got 0")),
]  # fmt: skip

DATA: list[Case] = [
    ("unequal lengths", lambda _: Trajectory(np.ones((9, 1)), np.ones((8, 1)), 1.0), ShapeError,
     ("u and y must have the same length", "9 and 8", "cut")),
    ("flat channel", lambda _: Trajectory(np.ones(9), np.ones((9, 1)), 1.0), ShapeError,
     ("u must have shape (T, nu)", "got (9,)", "u[:, None]")),
    ("NaN input", lambda _: Trajectory(np.full((9, 1), NAN), np.ones((9, 1)), 1.0), DataError,
     ("u must be finite", "got 9 NaN", "clean the data")),
    ("too short", lambda _: Trajectory(np.ones((1, 1)), np.ones((1, 1)), 1.0), DataError, ("at least 2", "got 1")),
    ("no sample time", lambda _: Trajectory(np.ones((9, 1)), np.ones((9, 1)), 0.0), SettingError, ("dt", "seconds")),
    ("states of another run", lambda _: Trajectory(np.ones((9, 1)), np.ones((9, 1)), 1.0, np.ones((8, 2))), ShapeError,
     ("x must have shape (9, nx)", "got (8, 2)")),
    ("one name for two channels",
     lambda _: Trajectory(np.ones((9, 2)), np.ones((9, 1)), 1.0, inputs=(Signal("pump"),)), ShapeError,
     ("inputs", "2", "got 1")),
    ("every second sample", lambda _: record()[::2], DataError, ("step 1", "trajectory[a:b]")),
    ("empty range", lambda _: Signal("level", "m", 2.0, 1.0), InfeasibleError, ("'level'", "lower < upper", "swap")),
    ("NaN limit", lambda _: Signal("level", "m", NAN, 1.0), SettingError, ("'level'", "nan")),
    ("nothing to train on", lambda _: Dataset(()), DataError, ("at least one training trajectory", "got none")),
    ("records of two plants", lambda _: Dataset((record(), record(nu=1))), ShapeError, ("nu, ny = 2, 3", "got 1, 3",
     "'lab 7'")),
    ("two sample times", lambda _: Dataset((record(), record(dt=1.0))), DataError,
     ("dt = 30.0 s", "1.0 s", "resample")),
    ("test on training data", lambda k: Dataset(k.dataset.train, k.dataset.train), DataError,
     ("two parts", "one purpose")),
    ("split of other records", lambda _: Dataset.split([record(), record()], (1, 2), seed=0), DataError,
     ("add up to 2", "(1, 2)")),
    ("unknown benchmark", lambda _: benchmarks.load("tanks"), SettingError, ("cascaded_tanks", "got 'tanks'")),
    ("no data folder", lambda k: benchmarks.load("silverbox", k.tmp / "nowhere"), MissingDataError,
     ("SNLS80mV.mat", "nowhere", "Get them from", "$CONTROLRNN_DATA")),
    ("not the official file", lambda k: benchmarks.load("mnist", k.wrong_benchmark()), FileFormatError,
     ("must have sha256", "got", "fetch it again")),
    ("missing record", lambda k: Trajectory.load(k.tmp / "none.npz"), FileNotFoundError, ("none.npz",)),
    ("a model as record", lambda k: Trajectory.load(k.saved()), FileFormatError,
     ("'trajectory'", "'lure-system'", "right kind")),
    ("damaged record", lambda k: Trajectory.load(k.damaged(record(2000).save)), FileFormatError, ("damaged",)),
]  # fmt: skip

MODELS: list[Case] = [
    ("no inputs", lambda _: Elman(nu=0, ny=1, nx=2), SettingError, ("nu", ">= 1", "got 0")),
    ("half a state", lambda _: LTI(nu=1, ny=1, nx=2.5), SettingError, ("nx", "2.5")),
    ("expanding rate", lambda _: ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(3,), rate=1.5), SettingError,
     ("rate", "1.5")),
    ("empty layer", lambda _: ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(0,)), SettingError, ("layers", "0")),
    ("unknown activation", lambda _: Elman(nu=1, ny=1, nx=2, activation="sine"), SettingError,
     ("'tanh'", "got 'sine'")),
    ("unknown keyword", lambda _: Elman(nu=1, ny=1, nx=2, neurons=5), TypeError, ("'neurons'",)),
    ("matrix of another size", lambda k: k.system_of(C1=np.eye(2)), ShapeError,
     ("C1 must have shape (3, 3)", "got (2, 2)", "(nx, nu, ny, nv)")),
    ("NaN weight", lambda k: k.system_of(bv=np.full(3, NAN)), DataError, ("bv must be finite", "3 NaN")),
    ("neurons without a layer", lambda k: k.system_of(layers=(2,)), SettingError, ("add up to nv = 3", "got (2,)")),
    ("implicit network", lambda k: k.system_of(D11=np.eye(3)), SettingError, ("D11", "block diagonal", "reorder")),
    ("simulation with three inputs", lambda k: k.system.simulate(np.ones((9, 3))), ShapeError,
     ("u must have shape", "(T, 2)", "got (9, 3)")),
    ("start of another size", lambda k: k.system.simulate(np.ones((9, 2)), np.ones(4)), ShapeError,
     ("x0 must have shape", "(3,)", "got (4,)")),
    ("digest of tensors", lambda k: k.open_system.digest, SettingError, ("frozen", "model.freeze()")),
]  # fmt: skip

IDENTIFICATION: list[Case] = [
    ("unknown option", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, epochs=9), SettingError,
     ("unknown option(s) epochs", "learning_rate")),
    ("model of another plant", lambda k: identify(Elman(nu=1, ny=3, nx=2), k.dataset), ShapeError,
     ("same channels", "1, 3", "2, 3", "dataset.nu")),
    ("no steps", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, steps=0), SettingError, ("steps", "got 0")),
    ("negative learning rate", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, learning_rate=-1), SettingError,
     ("learning_rate", "positive", "-1")),
    ("unknown schedule", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, schedule="line"), SettingError,
     ("schedule", "'cosine'", "'line'")),
    ("washout longer than the window",
     lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, loss=SimulationError(washout=30), window=30), SettingError,
     ("washout", "shorter than a window of 30", "got 30")),
    ("window longer than every record", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, window=90), DataError,
     ("window", "90", "60")),
    ("nothing left to score", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, skip=60), DataError,
     ("train record 0", "'lab 7'", "60 samples", "lower skip")),
    ("checkpoint that is none", lambda k: identify(Elman(nu=2, ny=3, nx=2), k.dataset, checkpoint=k.text()),
     FileFormatError, ("notes.txt", "not a controlrnn record")),
    ("washout is negative", lambda _: SimulationError(washout=-1), SettingError, ("washout", ">= 0", "-1")),
    ("scores of unequal runs", lambda _: rmse(np.ones((9, 1)), np.ones((8, 1))), ShapeError,
     ("same shapes", "(9, 1)", "(8, 1)")),
    ("NaN measurement", lambda _: fit_percent(np.full((9, 1), NAN), np.ones((9, 1))), DataError,
     ("measured", "no sample of channel 1")),
    ("skip everything", lambda _: nrmse(np.ones((9, 1)), np.ones((9, 1)), skip=9), DataError,
     ("9 samples", "lower skip")),
    ("score of another plant", lambda k: score(k.system, [record(nu=1)]), ShapeError, ("1", "2")),
    ("initial state from nothing", lambda k: estimate_initial_state(k.system, record().u, record().y, 61), DataError,
     ("at least n = 61", "60", "lower n")),
    ("ARX of too few samples", lambda _: identify_arx([record(9)], 5, 5), DataError, ("ARX(5, 5)", "lower the orders")),
    ("subspace of too few samples", lambda _: identify_subspace([record(9)], 2), DataError,
     ("samples", "lower horizon")),
    ("input that never moves",
     lambda _: identify_subspace([replace(record(500), u=np.ones((500, 2)))], 2), DataError, ("inputs", "excite")),
    ("a record as fit", lambda k: FitResult.load(k.saved()), FileFormatError, ("'fit-result'", "'lure-system'")),
]  # fmt: skip

CERTIFICATION: list[Case] = [
    ("certificate of tensors", lambda k: k.certify(system=k.open_system), SettingError, ("frozen", "model.freeze()")),
    ("negative horizon", lambda k: k.certify(horizon=-1), SettingError, ("horizon", ">= 0", "-1")),
    ("negative radius", lambda k: k.certify(initial_radius=-1.0), SettingError, ("initial_radius", ">= 0", "-1.0")),
    ("NaN radius", lambda k: k.certify(input_radius=NAN), DataError, ("input_radius", "finite")),
    ("three radii for two inputs", lambda k: k.certify(input_radius=np.ones(3)), ShapeError,
     ("input_radius must have shape (2,)", "got (3,)", "one per channel")),
    ("metric that is none", lambda k: k.certify(metric=-np.eye(3)), DataError, ("metric", "positive definite")),
    ("focus beyond the horizon", lambda k: k.certify(focus=[9]), SettingError, ("focus", "0..3", "[9]")),
    ("unknown method", lambda k: k.certify(method="guess"), SettingError, ("'riccati'", "'sdp'", "got 'guess'")),
    ("unknown solver", lambda k: k.certify(method="sdp", solver="GUESS"), CertificationError,
     ("GUESS",)),
    ("rate above one", lambda k: certify_contraction(k.system, 1.5), SettingError, ("rate", "(0, 1)", "1.5")),
    ("rate out of reach", lambda k: certify_contraction(k.system, 1e-4), CertificationError,
     ("rate 0.00010", "allow a larger rate")),
    ("unstable system", lambda k: certify_contraction(k.system_of(A=2 * np.eye(3))), CertificationError,
     ("cannot be shown to contract", "train a model")),
    ("no such rigour", lambda k: k.certificate.verify(k.system, rigour="proof"), SettingError,
     ("rigour must be one of", "'ball'", "got 'proof'")),
    ("another model", lambda k: k.certificate.verify(k.other), CertificationError,
     ("speaks of system", "weights differ", "certify this system")),
    ("changed weight", lambda k: k.certificate.verify(k.system_of(by=np.nextafter(k.system.by, 99))),
     CertificationError, ("weights differ",)),
    ("lowered bounds", lambda k: k.forged_certificate().verify(k.system), CertificationError,
     ("bound 0.", "not proven", "certify again")),
    ("lowered rate", lambda k: replace(k.contraction, rate=0.5 * k.contraction.rate).verify(k.system),
     CertificationError, ("not proven", "certify again")),
    ("damaged certificate", lambda k: load_certificate(k.damaged(k.certificate.save)), FileFormatError, ("damaged",)),
    ("a model as certificate", lambda k: load_certificate(k.saved()), FileFormatError,
     ("must hold a certificate", "'lure-system'")),
    ("missing certificate", lambda k: load_certificate(k.tmp / "none.npz"), FileNotFoundError, ("none.npz",)),
    ("attack in an empty range", lambda k: k.attack(input_range=(np.ones(2), np.zeros(2))), SettingError,
     ("input_range", "lower <= upper")),
    ("attack on one of two inputs", lambda k: k.attack(input_range=(np.zeros(1), np.ones(1))), ShapeError,
     ("input_range must have shape (2,)", "got (1,)")),
    ("attack with a negative radius", lambda k: k.attack(initial_radius=-1.0), SettingError, ("initial_radius", "-1")),
    ("attack with three radii", lambda k: k.attack(input_radius=np.ones(3)), ShapeError,
     ("input_radius", "(2,)", "(3,)")),
    ("attack on tensors", lambda k: k.attack(system=k.open_system), SettingError, ("frozen", "model.freeze()")),
]  # fmt: skip

FILES: list[Case] = [
    ("tensors as model file", lambda k: save_system(k.open_system, k.tmp / "m.npz"), SettingError, ("model.freeze()",)),
    ("tensors to CasADi", lambda k: to_casadi(k.open_system), SettingError, ("model.freeze()",)),
    ("unknown graph", lambda k: to_casadi(k.system, symbolic="GX"), SettingError, ("'SX'", "'MX'", "got 'GX'")),
    ("text as model", lambda k: load_system(k.text()), FileFormatError, ("notes.txt", "not a controlrnn record")),
    ("folder as model", lambda k: load_system(k.tmp), FileFormatError, ("not a controlrnn record", "folder")),
    ("missing model", lambda k: load_system(k.tmp / "none.npz"), FileNotFoundError, ("none.npz",)),
    ("number for a file", lambda _: FitResult.load(3), SettingError, ("path", "3")),
    ("gated certificate", lambda _: certify_contraction(LSTM(nu=1, ny=1, nx=2).freeze()), SettingError,
     ("LureSystem", "GatedSystem", "certify_delta_iss")),
    ("gated predictor", lambda _: Predictor(LSTM(nu=1, ny=1, nx=2).freeze(), [Signal("u")]), SettingError,
     ("LureSystem", "GatedSystem", "ContractingR2DN")),
    ("model for a system", lambda _: certify_contraction(Elman(nu=1, ny=1, nx=2)), SettingError, ("model.freeze()",)),
    ("string signals", lambda _: Trajectory(np.zeros((3, 1)), np.zeros((3, 1)), 1.0, inputs=("u",)), SettingError,
     ("inputs[0]", "'u'", "Signal(")),
    ("certificate as model", lambda k: (k.certificate.save(p := k.tmp / "c.npz"), load_system(p)), FileFormatError,
     ("'horizon-certificate'",)),
    ("damaged model", lambda k: load_system(k.damaged(lambda p: save_system(k.system, p))), FileFormatError,
     ("damaged",)),
    ("altered model", lambda k: load_system(k.forged_system()), FileFormatError, ("by must be finite",)),
]  # fmt: skip

MPC: list[Case] = [
    ("predictor of tensors", lambda k: Predictor(k.open_system), SettingError, ("frozen", "model.freeze()")),
    ("one signal for two inputs", lambda k: Predictor(k.system, TANK.inputs[:1]), ShapeError, ("inputs", "2", "got 1")),
    ("actuator without limits", lambda k: Predictor(k.system).input_limits(), SettingError,
     ("finite limits", "actuator's range")),
    ("prediction with three inputs", lambda k: k.predictor.predict(np.zeros(3), np.ones((4, 3))), ShapeError,
     ("u must have shape (N, 2)", "got (4, 3)")),
    ("prediction from another state", lambda k: k.predictor.predict(np.zeros(4), np.ones((4, 2))), ShapeError,
     ("x0 must have shape", "got (4,)")),
    ("no washout", lambda k: Washout(k.predictor, 0), SettingError, ("steps", ">= 1", "got 0")),
    ("start of another size", lambda k: RunningOn(k.predictor, 5, initial_state=np.zeros(2)), ShapeError,
     ("initial_state", "(3,)", "got (2,)")),
    ("certificate of another model", lambda k: Washout(k.predictor, 5, contraction=certify_contraction(k.other)),
     CertificationError, ("weights differ",)),
    ("observer without certificate", lambda k: Washout(k.predictor, 5).error, SettingError, ("certify_contraction",)),
    ("negative input error", lambda k: Washout(k.predictor, 5, input_error=-1.0), SettingError,
     ("input_error", ">= 0")),
    ("NaN input to an observer", lambda k: k.observer.update([NAN, 1.0], np.zeros(3)), DataError,
     ("u must be finite",)),
    ("two of three measurements", lambda k: k.observer.update(np.ones(2), np.zeros(2)), ShapeError,
     ("y", "(3,)", "(2,)")),
    ("too few records for the coverage", lambda k: k.calibrate(n=8), DataError,
     ("at least 9 calibration trajectories", "got 8", "record more")),
    ("records too short", lambda k: k.calibrate(T=24), DataError, ("washout + horizon + 1 = 25", "got 24")),
    ("coverage of certainty", lambda k: k.calibrate(coverage=1.0), SettingError, ("coverage", "(0, 1)", "1.0")),
    ("confidence of certainty", lambda k: k.calibrate(confidence=1.0), SettingError, ("confidence", "(0, 1)", "1.0")),
    ("too few records for the confidence", lambda k: k.calibrate(coverage=0.9, confidence=0.9), DataError,
     ("at least 22", "got 9", "at most 0.774")),
    ("confidence in single steps", lambda k: k.calibrate(confidence=0.5, coverage=0.5, unit="step"), SettingError,
     ("confidence", "whole records", "leave it out")),
    ("unknown unit", lambda k: k.calibrate(unit="sample"), SettingError, ("'record', 'step'", "got 'sample'")),
    ("all readings missing", lambda _: Operation(missing=1.0), SettingError, ("missing", "[0, 1)", "1.0")),
    ("unknown loop", lambda _: Operation(loop="half"), SettingError, ("'open', 'closed'", "got 'half'")),
    ("no operation to speak of", lambda k: k.model_error.coverage_over(0), SettingError, ("steps", ">= 1", "0")),
    ("adaptation to certainty", lambda _: Adaptation(coverage=1.0), SettingError, ("coverage", "(0, 1)", "1.0")),
    ("adaptation that does nothing", lambda _: Adaptation(gain=0.0), SettingError, ("gain", "positive", "0.0")),
    ("deflated loops", lambda _: LoopEffort(inflation=0.5), SettingError, ("inflation", ">= 1", "0.5", "shrunk")),
    ("no attempts", lambda _: LoopEffort(attempts=0), SettingError, ("attempts", ">= 1", "got 0")),
    ("too few loops", lambda _: calibrate_closed_loop(print, PLAIN, seed=0, effort=LoopEffort(loops=10)), DataError,
     ("at least 19", "got 10", "at most 0.909")),
    ("unknown target", lambda _: calibrate_closed_loop(print, PLAIN, seed=0, target="cost"), SettingError,
     ("'limits', 'predictions'", "got 'cost'")),
    ("a negative seed", lambda _: calibrate_closed_loop(print, PLAIN, seed=-1), SettingError,
     ("seed", ">= 0", "-1")),
    ("a back-off without outputs", lambda _: back_off(64 * "a", 3, 0.5), ShapeError, ("amount", "(ny,)")),
    ("more successes than trials", lambda _: clopper_pearson(3, 2), SettingError, ("successes", "n = 2", "got 3")),
    ("an interval of certainty", lambda _: anytime_interval(1, 2, 1.0), SettingError, ("confidence", "(0, 1)", "1.0")),
    ("deflation", lambda k: k.calibrate(inflation=0.5), SettingError, ("inflation", ">= 1", "0.5")),
    ("no scale", lambda k: k.calibrate(scale_trajectories=()), DataError, ("scale_trajectories", "aside")),
    ("records that serve twice", lambda k: k.calibrate(scale_trajectories=[record(seed=0)]), DataError,
     ("serve once", "split the records")),
    ("records of another plant", lambda k: k.calibrate(trajectories=[record(nu=1, seed=s) for s in range(9)]),
     ShapeError, ("nu, ny = 2, 3", "got 1, 3", "same plant")),
    ("unknown calibration", lambda k: k.calibrate(method="guess"), SettingError, ("'conformal'", "got 'guess'")),
    ("coverage of another model", lambda k: k.model_error.coverage_on(k.other, [record()]), SettingError,
     ("not the model", "pass that one")),
    ("certificate that covers too little",
     lambda k: tighten(k.model_error, k.certify(horizon=4, initial_radius=1e-3, input_radius=0.1), observer=k.observer),
     CertificationError, ("initial radius must cover", "0.001", "observer.error.radius")),
    ("certificate for exact inputs", lambda k: tighten(k.model_error, k.certify(horizon=4), observer=k.observer),
     CertificationError, ("input radius must cover", "observer.prediction_input_error")),
    ("execution of a Python object", lambda k: execution_error(k.open_system, **k.executed()), SettingError,
     ("frozen LureSystem", "freeze()")),
    ("execution that rests on nothing", lambda k: execution_error(k.system, **k.executed(contraction=None)),
     SettingError, ("gains or contraction", "neither", "certify_contraction")),
    ("execution in an empty box",
     lambda k: execution_error(k.system, **k.executed(state_range=(np.ones(3), -np.ones(3)))), SettingError,
     ("state_range", "lower <= upper", "swap")),
    ("execution with the wrong inputs", lambda k: execution_error(k.system, **k.executed(input_range=([0.0], [1.0]))),
     ShapeError, ("input_range", "(2,)", "(1,)")),
    ("execution in another precision", lambda k: execution_error(k.system, **k.executed(precision="half")),
     SettingError, ("'float32'", "got 'half'")),
    ("execution with perfect functions", lambda k: execution_error(k.system, **k.executed(tanh_ulps=0.0)),
     SettingError, ("tanh_ulps", "positive", "0")),
    ("execution over less than no step", lambda k: execution_error(k.system, **k.executed(horizon=-1)),
     SettingError, ("horizon", ">= 0", "-1")),
    ("execution that covers too little",
     lambda k: tighten(k.model_error, None, observer=k.observer, execution=execution_error(k.system, **k.executed())),
     SettingError, ("execution", "input_range")),
    ("C code in another precision", lambda k: to_c(k.system, k.tmp / "m.c", precision="half"), SettingError,
     ("'float32'", "got 'half'")),
    ("weights beyond floats",
     lambda k: to_c(replace(k.system, by=np.full(3, 1e300)), k.tmp / "m.c", precision="float32"), SettingError,
     ("by overflows in float32", "1e+300", "float64")),
    ("certificate that is too short",
     lambda k: tighten(k.model_error, k.certify(horizon=2, input_radius=0.01), observer=k.observer), SettingError,
     ("cover the horizon 4", "got 2")),
    ("tightening beyond the limits",
     lambda k: nominal_with(k, np.full((5, 3), 40.0)).limits(TANK.outputs), InfeasibleError,
     ("nothing of output 'level 1'", "step 1", "[0, 60]", "shorten the horizon")),
    ("controller without room", lambda k: k.mpc(nominal_with(k, np.full((5, 3), 40.0))), InfeasibleError,
     ("nothing of output 'level 1'",)),
    ("negative tightening", lambda k: nominal_with(k, np.full((5, 3), -1.0)), SettingError, ("model_error", ">= 0")),
    ("tightening of another model", lambda k: k.mpc(no_tightening(k.other.digest, 4, 3)), SettingError, ("one model",)),
    ("horizon beyond the tightening", lambda k: k.mpc(horizon=9), SettingError, ("covers 4 steps", "9", "shorten")),
    ("two weights for three outputs", lambda k: k.mpc(output_weight=[1, 1]), ShapeError,
     ("output_weight", "(3,)", "(2,)")),
    ("negative weight", lambda k: k.mpc(input_move_weight=-1.0), SettingError, ("input_move_weight", ">= 0")),
    ("nothing to control", lambda k: k.mpc(output_weight=0.0), SettingError, ("output_weight", "positive")),
    ("no moves allowed", lambda k: k.mpc(move_limit=0.0), SettingError, ("move_limit", "positive")),
    ("two move limits of wrong length", lambda k: k.mpc(move_limit=[1.0, 1.0, 1.0]), ShapeError,
     ("move_limit", "(2,)", "(3,)")),
    ("safe input that is not", lambda k: k.mpc(safe_input=[9.0, 9.0]), SettingError, ("safe_input", "input limits")),
    ("two flags for three outputs", lambda k: k.mpc(soft=(True, False)), ShapeError,
     ("soft", "3 outputs", "got 2")),
    ("text as flag for limits", lambda k: k.mpc(soft=("no", True, True)), SettingError, ("soft", "got a str")),
    ("a priority of zero", lambda k: k.mpc(priority=(0, 1, 2)), SettingError,
     ("priority", "whole number >= 1", "got 0")),
    ("soft before hard", lambda k: k.mpc(soft=(True, False, True), priority=(1, 2, 3)), SettingError,
     ("soft limit", "priority over a hard one", "1 comes first")),
    ("a delayed plant of none", lambda _: DelayedPlant(3.0), SettingError, ("plant must be a process", "got float")),
    ("delayed twice", lambda _: DelayedPlant(DelayedPlant(TANK)), SettingError, ("has the delay already",)),
    ("a timing nobody knows", lambda k: Predictor(k.system, timing="later"), SettingError, ("'delayed'", "'later'")),
    ("delayed in name only", lambda k: Predictor(k.system, timing="delayed"), SettingError,
     ("delay_input", "Predictor.delayed")),
    ("actuators that are too slow", lambda k: k.loop(Sluggish()), SettingError,
     ("plans move input", "actuator manages 0.5", "move_limit")),
    ("promised with certainty", lambda _: CoveragePromise(coverage=1.0, stretch=9), SettingError,
     ("coverage", "(0, 1)", "1.0")),
    ("stretches of nothing", lambda _: CoveragePromise(coverage=0.9, stretch=0), SettingError, ("stretch", "got 0")),
    ("no patience", lambda _: CoveragePromise(coverage=0.9, stretch=9, patience=1.0), SettingError,
     ("patience", "1.0")),
    ("promised about predictions of which nothing is known",
     lambda k: k.mpc(watching=Watching(promised=CoveragePromise(coverage=0.9, stretch=9))), SettingError,
     ("promised", "says nothing", "calibrate")),
    ("watching that is none", lambda k: k.mpc(watching="closely"), SettingError, ("watching", "Watching", "'closely'")),
    ("a premise nobody knows", lambda _: Watching(reactions={"weather": "hold"}), SettingError,
     ("'inputs'", "got 'weather'")),
    ("a reaction nobody knows", lambda _: Watching(reactions={"inputs": "pray"}), SettingError,
     ("'back_off'", "got 'pray'")),
    ("ignoring what is no reading", lambda _: Watching(reactions={"time": "ignore"}), SettingError,
     ("reaction to time", "'ignore'", "readings")),
    ("back off to nowhere", lambda _: Watching(reactions={"region": "back_off"}), SettingError,
     ("back_off needs safe_reference",)),
    ("no jitter at all", lambda _: Watching(jitter=0.0), SettingError, ("jitter", "positive", "0.0")),
    ("safe set point of two of three", lambda k: k.mpc(watching=Watching(safe_reference=[1.0, 2.0])), ShapeError,
     ("safe_reference", "(3,)", "(2,)")),
    ("plausibility of another plant",
     lambda k: k.mpc(watching=Watching(plausibility=PlausibilityLimits(sensors=TANK.outputs[:1]))), SettingError,
     ("plausibility", "3 sensors", "got 1")),
    ("read-back of one of two", lambda k: k.mpc().step(np.zeros(3), np.zeros(3), applied=[1.0]), ShapeError,
     ("applied", "(2,)", "(1,)")),
    ("read-back as text", lambda k: k.mpc().step(np.zeros(3), np.zeros(3), applied="open"), DataError,
     ("applied", "numbers")),
    ("time that is NaN", lambda k: k.mpc().step(np.zeros(3), np.zeros(3), time=NAN), SettingError, ("time", "nan")),
    ("time as text", lambda k: k.mpc().step(np.zeros(3), np.zeros(3), time="noon"), SettingError, ("time", "'noon'")),
    ("unknown mode", lambda k: k.mpc(mode="bold"), SettingError, ("'guaranteed'", "'practical'", "got 'bold'")),
    ("unknown keyword", lambda k: k.mpc(output_weights=1.0), TypeError, ("'output_weights'",)),
    ("two of three references", lambda k: k.loop(reference=[1.0, 2.0]), ShapeError, ("reference", "(3,)", "(2,)")),
    ("NaN reference", lambda k: k.loop(reference=[NAN, 1.0, 1.0]), DataError, ("reference must be finite",)),
    ("no control steps", lambda k: k.loop(steps=0), SettingError, ("steps", "got 0")),
    ("another plant", lambda k: k.loop(MultiTank(2)), SettingError, ("(nu, ny, dt) = (2, 3, 30.0)", "(2, 2, 30.0)")),
    ("another sample time", lambda k: k.loop(MultiTank(dt=10.0)), SettingError, ("30.0", "10.0")),
    ("more than certain to be missing", lambda k: k.loop(missing=1.5), SettingError, ("missing", "probability", "1.5")),
    ("no seeds", lambda k: monte_carlo(lambda: ClosedLoopSetup(TANK, k.controller), []), SettingError,
     ("seed", "none")),
    ("a record as tightening", lambda k: Tightening.load(k.saved()), FileFormatError,
     ("'tightening'", "'lure-system'")),
    ("damaged model error", lambda k: ModelError.load(k.damaged(k.model_error.save)), FileFormatError, ("damaged",)),
    ("text as closed loop", lambda k: ClosedLoopResult.load(k.text()), FileFormatError, ("not a controlrnn record",)),
    ("tightening that claims nothing is needed",
     lambda k: no_tightening(k.system.digest, 4, 3).verify(k.model_error, None, observer=k.observer),
     CertificationError, ("its sources give", "make it anew")),
    ("another tightening", lambda k: no_tightening(k.system.digest, 4, 3).agrees_with(nominal_with(k, np.ones((5, 3)))),
     CertificationError, ("its sources give",)),
    ("input before the start outside its range", lambda k: k.mpc().start_from([1e9, 0.0]), SettingError,
     ("u_previous must lie within", "got [1.e+09")),
    ("state of another controller", lambda k: k.mpc().restore(k.mpc(output_weight=2.0).state()), DataError,
     ("other parts or settings",)),
    ("horizon beyond the tightening on the run", lambda k: k.mpc().change(horizon=9), SettingError,
     ("the tightening covers 4 steps, got horizon 9",)),
    ("folder without signature", lambda k: records.verify_folder(k.tmp, "0" * 64), SignatureError, ("is not signed",)),
    ("text as private key", lambda k: records.sign_folder(k.tmp / "x", k.text()), SettingError, ("use new_key",)),
    ("a share that is NaN", lambda k: replace(k.model_error, coverage=NAN), SettingError, ("coverage", "nan")),
    ("error of negative radius", lambda _: StateError(-1.0, np.eye(2)), SettingError, ("radius", ">= 0", "-1.0")),
    ("error of NaN radius", lambda _: StateError(NAN, np.eye(2)), SettingError, ("radius", "nan")),
    ("ball of no shape", lambda _: StateError(1.0, -np.eye(2)), SettingError, ("metric", "positive definite")),
    ("coverage of seven", lambda k: replace(k.model_error, coverage=7.0), SettingError, ("coverage", "[0, 1]", "7.0")),
    ("minus three records", lambda k: replace(k.model_error, n=-3), SettingError, ("n must be", ">= 1", "-3")),
    ("infinite filter gain", lambda _: replace(PLAIN, disturbance_gain=-np.inf), SettingError,
     ("disturbance_gain", "finite", "-inf")),
    ("digest that is none", lambda _: no_tightening("model", 4, 3), DataError, ("digests.system", "64 hexadecimal")),
    ("text as number", lambda k: k.loop(missing="0.1"), SettingError, ("missing", "'0.1'")),
    ("flag that is none", lambda k: k.loop(preview="no"), SettingError, ("preview", "True or False", "'no'")),
    ("steps without end", lambda k: k.loop(steps=1e300), SettingError, ("steps", "whole number")),
    ("one seed for ever", lambda k: k.loop(seed=2**64), SettingError, ("seed", "at most")),
    ("complex input", lambda k: k.predictor.predict(np.zeros(3), np.ones((2, 2)) * 1j), DataError,
     ("u must be an array of numbers", "complex128")),
    ("masked measurement", lambda k: k.controller.step(np.ma.masked_all(3), np.zeros(3)), DataError,
     ("y must be", "masked values", "NaN")),
    ("state of another model", lambda k: k.system.step(np.zeros(2), np.zeros(2)), ShapeError,
     ("x", "(..., 3)", "(2,)")),
    ("batches that do not meet", lambda k: k.system.output(np.zeros((4, 3)), np.zeros((5, 2))), ShapeError,
     ("leading axes", "(4, 3)", "(5, 2)")),
    ("step beyond float64", lambda k: k.linear.output(np.full(3, 1.7e308), np.zeros(2)), DataError,
     ("range of float64", "units")),
    ("point of no shape", lambda k: k.predictor.linearise(np.zeros((1, 3)), np.zeros(2)), ShapeError, ("x", "(3,)")),
    ("one target for three", lambda k: steady_input(k.predictor, [1.0], np.ones(3)), ShapeError, ("target", "(3,)")),
    ("steady limits that cross", lambda k: steady_input(k.predictor, np.ones(3), np.ones(3), limits=[[1] * 3, [0] * 3]),
     SettingError, ("limits", "above")),
]  # fmt: skip


def nominal_with(kit: Kit, model_error: np.ndarray) -> Tightening:
    return replace(no_tightening(kit.system.digest, 4, 3), model_error=model_error)


PLAIN = no_tightening(64 * "a", 4, 3)
CASES = PLANTS + DATA + MODELS + IDENTIFICATION + CERTIFICATION + FILES + MPC


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit(Path())


@pytest.mark.parametrize(("call", "error", "pieces"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_is_refused_with_a_message_that_helps(call, error, pieces, kit, tmp_path):
    kit.tmp = tmp_path
    with pytest.raises(error) as caught:
        call(kit)
    missing = [piece for piece in pieces if piece not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    if error is not TypeError and error is not FileNotFoundError:
        assert isinstance(caught.value, ControlRnnError)
    assert not list(tmp_path.rglob("*.part")), "a half-written file was left behind"
