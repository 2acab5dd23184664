"""Small valid objects of all public kinds, for calls that spoil one argument."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.certification import (
    ContractionCertificate,
    GainCertificate,
    HorizonCertificate,
    TubeCertificate,
    attack_horizon,
    attack_l2_gain,
    certify_around,
    certify_by_construction,
    certify_contraction,
    certify_delta_iss,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.identification import (
    FitResult,
    SimulationError,
    StateEncoder,
    check_residuals,
    fit_encoder,
    free_run,
    identify,
    identify_arx,
    identify_best,
    identify_subspace,
    observer_dataset,
    score_predictions,
    select_order,
)
from controlrnn.models import LTI, ContractingREN, Elman, RobustRNN
from controlrnn.systems import Cell, GatedSystem, LureSystem, observer_system
from experiments.bench_calls.hostile.parts import NU, NX, NY, WASHOUT, N, Plant, network, signals
from mpc import (
    ClosedLoopCalibration,
    ClosedLoopResult,
    ClosedLoopSetup,
    DisturbanceFilter,
    EncoderObserver,
    ErrorMemory,
    EstimateError,
    LoopEffort,
    ModelError,
    MovingHorizonObserver,
    Observer,
    OperatingRegion,
    PlausibilityLimits,
    Predictor,
    RunningOn,
    SimulatedLoops,
    StateError,
    StateObserver,
    TerminalSet,
    TightenedMPC,
    Tightening,
    Washout,
    calibrate,
    calibrate_closed_loop,
    calibrate_estimates,
    certify_changes,
    kalman_gain,
    learn_region,
    make_error_memory,
    make_recursive,
    no_tightening,
    run_closed_loop,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped


class Kit:
    """Valid objects, each made when it is first asked for.

    Args:
        folder: Where files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = network(0)
        self.smaller = network(1, nx=2, nu=1, ny=1)
        draw = np.random.default_rng(0).standard_normal
        self.gated = GatedSystem(
            W=0.5 * draw((9, 2)),
            U=0.03 * draw((9, 3)),
            b=0.5 * draw(9),
            C=draw((2, 3)),
            by=draw(2),
            cell=Cell.GRU,
            dt=1.0,
        )
        self.open = Elman(nu=NU, ny=NY, nx=NX).system()  # of tensors
        self.double = Elman(nu=NU, ny=NY, nx=NX).double().system()
        self.linear = LTI(nu=NU, ny=NY, nx=NX).freeze()
        self.through = replace(self.system, D22=np.ones((NY, NU)))
        self.plant = Plant(self.system)

    def record(self, seed: int = 0, T: int = 40) -> Trajectory:
        """A noisy run of the network."""
        rng = np.random.default_rng(seed)
        u = np.repeat(rng.uniform(-1, 1, (T // 2, NU)), 2, axis=0)
        y, x = self.system.simulate(u)
        return Trajectory(u, y + 0.05 * rng.standard_normal((T, NY)), 1.0, x[:-1], name=f"record {seed}")

    @cached_property
    def records(self) -> tuple[Trajectory, ...]:
        """Nine records."""
        return tuple(self.record(s) for s in range(9))

    @cached_property
    def others(self) -> tuple[Trajectory, ...]:
        """Two further records."""
        return tuple(self.record(s) for s in range(20, 22))

    @cached_property
    def dataset(self) -> Dataset:
        """Records by purpose."""
        return Dataset(self.records[:2], self.records[2:3], self.records[3:4], self.records[4:5])

    @cached_property
    def contraction(self) -> ContractionCertificate:
        """Contraction certificate of the network."""
        return certify_contraction(self.system)

    @cached_property
    def horizon(self) -> HorizonCertificate:
        """Horizon certificate for the observer's error."""
        return certify_horizon(self.system, N, initial_radius=self.observer.error.radius,
                               metric=self.observer.error.metric, input_radius=0.01, iterations=5)  # fmt: skip

    @cached_property
    def gains(self) -> GainCertificate:
        """Gain certificate from the initial state and the inputs."""
        return certify_gains(self.system, 2, iterations=5)

    @cached_property
    def tube(self) -> TubeCertificate:
        """Certificate around a plan."""
        return certify_around(self.system, np.zeros(NX), np.zeros((N + 1, NU)), passes=1, input_radius=0.01,
                              initial_radius=self.observer.error.radius, metric=self.observer.error.metric)  # fmt: skip

    @cached_property
    def reinitialisation(self) -> Any:
        """Re-initialisation certificate after a washout."""
        return certify_reinitialisation(
            self.system, washout=3, horizon=2, input_range=(-np.ones(NU), np.ones(NU)), input_error=0.1,
            residual_bound=0.1, observer_gain=np.full((NX, NY), 0.01), iterations=5,
        )  # fmt: skip

    @cached_property
    def certificates(self) -> dict[str, Any]:
        """One certificate of each kind."""
        box = (-np.ones(NU), np.ones(NU))
        made = [
            self.contraction, self.horizon, self.gains, self.tube, self.reinitialisation,
            certify_l2_gain(self.system), certify_lipschitz(self.system, 2),
            certify_delta_iss(self.gated, input_range=box, iterations=50),
        ]  # fmt: skip
        return {type(c).__name__: c for c in made}

    @cached_property
    def construction(self) -> Any:
        """Certificates that a model's parameterisation implies."""
        return certify_by_construction(self.ren)

    @cached_property
    def ren(self) -> Any:
        """A model that contracts by construction."""
        return ContractingREN(nu=NU, ny=NY, nx=NX, nv=2, rate=0.9)

    @cached_property
    def robust(self) -> RobustRNN:
        """A model with a prescribed gain."""
        return RobustRNN(nu=NU, ny=NY, nx=NX, nv=2, gamma=100.0)

    @cached_property
    def attacks(self) -> tuple[Any, Any]:
        """Attacks that give lower bounds."""
        box = (-np.ones(NU), np.ones(NU))
        return (
            attack_horizon(self.system, 2, initial_radius=1.0, input_range=box, starts=2, steps=2, seed=0),
            attack_l2_gain(self.system, 4, input_range=box, starts=2, steps=2, seed=0),
        )

    @cached_property
    def predictor(self) -> Predictor:
        """Predictor of the network with limits."""
        return Predictor(self.system, signals("u", NU, 1.0), signals("y", NY, 4.0))

    @cached_property
    def observer(self) -> Washout:
        """Washout observer with a certified error."""
        return Washout(self.predictor, WASHOUT, contraction=self.contraction, input_error=0.01)

    @cached_property
    def observers(self) -> dict[str, Observer]:
        """One observer of each kind."""
        gain = kalman_gain(self.predictor, output_noise_std=0.1, input_noise_std=0.1)
        dynamics = certify_contraction(observer_system(self.system, gain))
        innovation = StateObserver(
            self.predictor, gain, WASHOUT, residual_bound=0.2, contraction=self.contraction,
            observer_contraction=dynamics,
        )  # fmt: skip
        made: list[Observer] = [
            self.observer, RunningOn(self.predictor, WASHOUT, contraction=self.contraction), innovation,
            MovingHorizonObserver(self.predictor, WASHOUT, window=3, output_std=0.1),
            EncoderObserver(self.predictor, self.encoder),
        ]  # fmt: skip
        return {type(o).__name__: o for o in made}

    @cached_property
    def guarded(self) -> dict[str, Any]:
        """A guarded observer, and the certificates of `mpc.tighten_guarded` for it."""
        guard = RunningOn(self.predictor, WASHOUT, contraction=self.contraction, input_error=0.01)
        observer = MovingHorizonObserver(
            self.predictor, WASHOUT, window=3, output_std=0.1, guard=guard, trust=0.3, contraction=self.contraction,
            input_error=0.01,
        )  # fmt: skip
        restart, between = guard.restart, observer.guard_distance
        assert between is not None
        return {
            "observer": observer,
            "certificate": certify_horizon(self.system, WASHOUT + N, initial_radius=restart.radius,
                                           metric=restart.metric, input_radius=0.01, iterations=5),
            "difference": certify_horizon(self.system, N, initial_radius=between.radius, metric=between.metric,
                                          iterations=5),
        }  # fmt: skip

    @cached_property
    def model_error(self) -> ModelError:
        """A conformal bound."""
        return calibrate(self.system, self.records, horizon=N, washout=WASHOUT, scale_trajectories=self.others)

    @cached_property
    def estimate_error(self) -> EstimateError:
        """A bound on the observer's error."""
        return calibrate_estimates(self.observer, self.records, washout=WASHOUT)

    @cached_property
    def region(self) -> OperatingRegion:
        """Operating region in which the model error was calibrated."""
        return learn_region(self.observer, self.records, scale_trajectories=self.others)

    @cached_property
    def plausibility(self) -> PlausibilityLimits:
        """Plausibility limits of readings."""
        return PlausibilityLimits.calibrated(
            self.predictor.outputs, self.observer, self.records, disturbance=DisturbanceFilter(0.2)
        )

    @cached_property
    def tightening(self) -> Tightening:
        """Tightening from the model error and the horizon certificate."""
        return tighten(self.model_error, self.horizon, observer=self.observer)

    @cached_property
    def jump(self) -> StateError:
        """Bound on the observer's jump."""
        return self.observer.jump or StateError(0.0, np.eye(NX))

    @cached_property
    def growth(self) -> HorizonCertificate:
        """Certified effect of a jump on the outputs."""
        return certify_horizon(self.system, N, initial_radius=self.jump.radius, metric=self.jump.metric, iterations=5)

    @cached_property
    def changes(self) -> tuple[HorizonCertificate, ...]:
        """Certified rates at which errors can change."""
        return certify_changes(self.observer, 2, iterations=5)

    @cached_property
    def drift(self) -> ModelError:
        """Bound on how fast the model error can change."""
        return calibrate(
            self.system, self.records, horizon=N, washout=WASHOUT, scale_trajectories=self.others,
            disturbance=DisturbanceFilter(1.0),
        )  # fmt: skip

    @cached_property
    def error_memory(self) -> ErrorMemory:
        """Error memory, from which a controller learns its limits."""
        return make_error_memory(self.tightening, self.drift, self.changes, observer=self.observer, growth=self.growth)

    @cached_property
    def at_rest(self) -> tuple[Tightening, TerminalSet]:
        """A recursive tightening and the terminal set that goes with it."""
        long = 12
        growth = certify_horizon(
            self.system, long, initial_radius=self.jump.radius, metric=self.jump.metric, iterations=5
        )
        tightening = make_recursive(no_tightening(self.system.digest, long, NY), growth, observer=self.observer)
        return tightening, terminal_set(self.predictor, self.contraction, horizon=long, jump=self.jump)

    @cached_property
    def controller(self) -> TightenedMPC:
        """Tracking controller without tightening."""
        return self.mpc()

    def mpc(self, **change: Any) -> TightenedMPC:
        """Controller that has recorded the samples that its observer needs."""
        given: dict[str, Any] = {"output_weight": 1.0, "input_move_weight": 0.1, "horizon": N} | change
        tightening = given.pop("tightening", no_tightening(self.system.digest, N, NY))
        observer = copy.copy(given.pop("observer", self.observer))
        controller = TightenedMPC(given.pop("predictor", self.predictor), observer, tightening, **grouped(given))
        for t in range(WASHOUT):
            controller.record(self.records[0].y[t], self.records[0].u[t])
        return controller

    @cached_property
    def loop(self) -> ClosedLoopResult:
        """Closed loop of three steps."""
        return run_closed_loop(self.plant, self.controller, reference=np.zeros(NY), steps=3, seed=0)

    def setup(self, tightening: Tightening) -> ClosedLoopSetup:
        """Setup of a closed loop of two noisy steps under a tightening."""
        options = {"reference": np.zeros(NY), "steps": 2, "noise_std": 0.01}
        return ClosedLoopSetup(self.plant, self.mpc(tightening=tightening), options)

    @cached_property
    def rounds(self) -> ClosedLoopCalibration:
        """A calibration in closed loop."""
        return calibrate_closed_loop(
            SimulatedLoops(self.setup), no_tightening(self.system.digest, N, NY), seed=0, coverage=0.5,
            effort=LoopEffort(loops=4, rounds=1),
        )  # fmt: skip

    @cached_property
    def fit(self) -> FitResult:
        """A short fit."""
        return self.identified()

    def identified(self, **change: Any) -> FitResult:
        """A short fit."""
        given: dict[str, Any] = {
            "model": Elman(nu=NU, ny=NY, nx=NX), "dataset": self.dataset, "loss": SimulationError(washout=4),
            "steps": 2, "batch_size": 2, "window": 10, "validate_every": 2,
        }  # fmt: skip
        return identify(**(given | change))

    @cached_property
    def arx(self) -> Any:
        """A linear model."""
        return identify_arx(self.records, 1, 1)

    @cached_property
    def subspace(self) -> Any:
        """Another linear model."""
        return identify_subspace(self.records, 2, horizon=4)

    @cached_property
    def long(self) -> list[Trajectory]:
        """Records that are long enough to leave a part out."""
        rng = np.random.default_rng(9)
        u = [rng.normal(size=(120, NU)) for _ in range(2)]
        return [Trajectory(one, np.cumsum(one, axis=0)[:, :1] * np.ones((1, NY)) + one[:, :1], 0.5) for one in u]

    @cached_property
    def best(self) -> Any:
        """Linear models with their choice."""
        return identify_best(self.long, budget=2.0, families=(), skip=5)

    @cached_property
    def orders(self) -> Any:
        """Linear models of two orders."""
        return select_order(self.records[:2], self.records[2:3], orders=(1, 2), horizon=4)

    @cached_property
    def runs(self) -> list[Any]:
        """Simulated outputs of the records."""
        return free_run(self.system, self.records)[0]

    @cached_property
    def residuals(self) -> Any:
        """A whiteness test."""
        return check_residuals(self.records, self.runs, lags=5)

    @cached_property
    def predictions(self) -> Any:
        """Errors by step ahead."""
        return score_predictions(self.system, self.records, 3, past=5)

    @cached_property
    def encoder(self) -> StateEncoder:
        """A fitted encoder."""
        return fit_encoder(self.system, self.records, past=3, washout=5, hidden=2, steps=2)

    @cached_property
    def observing(self) -> tuple[LureSystem, Dataset]:
        """A system whose inputs are (u, y), and records for it."""
        return observer_system(self.system, np.full((NX, NY), 0.01)), observer_dataset(self.dataset)

    @cached_property
    def anything(self) -> list[Any]:
        """Objects of many types, to put where another one is expected."""
        return [
            self.system, self.smaller, self.gated, self.open, self.linear, self.predictor, self.observer, self.plant,
            self.records[0], self.dataset, self.contraction, self.horizon, self.model_error, self.tightening,
            replace(self.records[0], dt=2.0), Signal("y"), StateError(1.0, np.eye(NX)), network(5, norm=1.5),
            self.ren, SimulationError(), DisturbanceFilter(0.2),
        ]  # fmt: skip
