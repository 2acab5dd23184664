"""Settings of the three-tank study, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the study; `quick` shortens it to a check that everything runs.

    Args:
        records: Number of experiments for training, validation, test and calibration.
        samples: Samples per experiment.
        noise: Standard deviation of the level measurements [cm].
        inflow: Standard deviation of the unmeasured inflows [L/min]; they wander with a time constant of 20 samples.
        actuator: Largest difference between commanded and true pump flow [L/min], 0.5 % of the pumps' range.
        excitation: Range of the pumps during the experiments [L/min]: where the tanks neither run dry nor overflow.
        washout: Samples of re-initialisation, in training, calibration and control.
        horizon: Prediction horizon of the MPC [samples].
        coverage: Probability asked of what is calibrated, per trajectory.
        memory: Samples that the recalling controller believes a measurement for; each costs a certificate.
        change_iterations: Iterations spent on each of those; five times as many lower the bounds by 2 %.
        steps: Training steps.
        runs: Closed loops per controller.
        control_steps: Samples per closed loop.
        pump_2: Second pump in the wanted steady states [L/min]; the first follows from the level.
        levels: Levels of tank 1 asked for [cm], each for an equal share of the run; the middle one is the limit itself.
        back_off_step: Step [cm] in which an engineer tries distances from the limits.
        attempts: Attempts that the calibration in closed loop has, and pays for.
        certificate_iterations: Iterations spent on the multipliers per output.
    """

    records: tuple[int, int, int, int] = (20, 10, 20, 40)
    samples: int = 500
    noise: float = 0.2
    inflow: float = 0.01
    actuator: float = 0.02
    excitation: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 2.6), (1.0, 2.4))
    washout: int = 140
    horizon: int = 20
    coverage: float = 0.9
    memory: int = 6
    change_iterations: int = 40
    steps: int = 1500
    runs: int = 20
    control_steps: int = 120
    pump_2: float = 1.6
    levels: tuple[float, float, float] = (50.0, 60.0, 55.0)
    back_off_step: float = 0.1
    attempts: int = 2
    certificate_iterations: int = 200

    @classmethod
    def of(cls, quick: bool) -> Config:
        """Settings of the full study, or of a short one."""
        if not quick:
            return cls()
        return cls(
            records=(8, 4, 6, 20),
            samples=400,
            steps=150,
            runs=4,
            control_steps=60,
            attempts=1,
            certificate_iterations=40,
        )

    @property
    def half_range(self) -> Array:
        """Half the excited range of each pump [L/min]."""
        return np.array([0.5 * (high - low) for low, high in self.excitation])
