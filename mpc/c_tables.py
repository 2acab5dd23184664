"""Records of what C code needs of each part of a controller: plain numbers and arrays, made by the part's `c_table`.

A part may work in any way inside as long as its record stays the same: `mpc.c_code` reads the records and public
settings, and nothing else. Arrays have the shapes that their parts use; C code stores them row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class SolverTable:
    """Numbers of the condensed solver, in the scaled units of `mpc.solvers.condensed_problem`.

    Args:
        inputs: Number M of input samples that are chosen.
        limited: Indices of the outputs that have limits.
        bounded: Indices of the inputs whose moves are limited.
        middle: Middle of each input's range, shape (nu,), physical.
        half: Half of it.
        input_low: Lower end of it.
        input_high: Upper end of it.
        scale: Unit of each output, shape (ny,).
        root: Root of the weight of each error, shape (N + 1, ny).
        prices: Penalties of limited outputs with all ranks in force, then without the first, and so on, one after the
            other.
        end_price: Penalty on leaving the terminal set; 0 without one.
        move_root: Root of the weight of each move, shape (nu,).
        move_limit: Largest move of each input.
        inside: Margin to limits with a terminal set.
        steep: Whether full steps get second-order corrections.
        accuracy: Length of a step from which on a plan counts as converged.
    """

    inputs: int
    limited: NDArray[np.intp]
    bounded: NDArray[np.intp]
    middle: Array
    half: Array
    input_low: Array
    input_high: Array
    scale: Array
    root: Array
    prices: Array
    end_price: float
    move_root: Array
    move_limit: Array
    inside: float
    steep: bool
    accuracy: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class InnovationTable:
    """Numbers of an innovation observer: its bound follows b+ = kept b + added, and in a gap by another pair.

    Args:
        kept: Factor on the bound where a reading is used.
        added: What is added to it then.
        kept_in_gap: Factor where none is used.
        added_in_gap: What is added then.
        to_own: Factor on a radius for changing from the model's metric to the observer's.
        metric: The observer's metric, shape (nx, nx).
        readings_kept: Slope of the bound on innovations over the error bound, shape (ny,).
        readings_added: Offset of it.
    """

    kept: float
    added: float
    kept_in_gap: float
    added_in_gap: float
    to_own: float
    metric: Array
    readings_kept: Array
    readings_added: Array


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ObserverTable:
    """Numbers of an observer's certified error (`mpc.observers.base`); those that need a certificate are 0 without one.

    Args:
        certified: Whether there is a certified error.
        promised: Radius that the running bound must be within for the estimate to be certified; None where a window of
            clean inputs decides instead.
        reach: R0, how far the model's state can be from its initial state.
        rate: Rate of contraction.
        added: What input errors add to a bound in each step.
        input_gain: Gain of each input's error, shape (nu,).
        metric: The model's metric, shape (nx, nx); the identity without a certificate.
        innovation: Numbers of an innovation observer; None for others.
    """

    certified: bool
    promised: float | None
    reach: float
    rate: float
    added: float
    input_gain: Array
    metric: Array
    innovation: InnovationTable | None = None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LearntErrorsTable:
    """Limits that learn from measurements (`mpc.tightening.learnt_errors`).

    Args:
        lower: Lower limits before what is known of errors is added, shape (N + 1, ny).
        upper: Upper ones.
        learning: Number of steps, from the first on, whose limits learn.
    """

    lower: Array
    upper: Array
    learning: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class CoverageTable:
    """Counted coverage (`mpc.safety.coverage_watch`).

    Args:
        lower: Lower ends of what counts as inside, shape (ny,).
        upper: Upper ends.
        inside: Factor on the evidence of a stretch that was inside.
        outside: Factor of one that was not.
        patience: Evidence that alarms.
    """

    lower: Array
    upper: Array
    inside: float
    outside: float
    patience: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class MoveTable:
    """Moves that an error was calibrated for (`mpc.safety.move_watch`).

    Args:
        window: Inputs in a row that have to have kept them.
        limit: Largest moves, shape (nu,), infinite where any is slow, with their slack.
        last_places: Further slack, as a share of the inputs.
    """

    window: int
    limit: Array
    last_places: float


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class RangeTable:
    """Arguments of laws with a declared range (`mpc.safety.range_watch`): rows of (x, u, w) and what they lie between.

    Args:
        matrix: Factors on state, input and neurons' outputs, shape (R, nx + nu + nv).
        bias: What is added, shape (R,).
        least: Lower ends of the ranges with their tolerance, shape (R,).
        most: Upper ends, likewise.
    """

    matrix: Array
    bias: Array
    least: Array
    most: Array


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class PremiseTable:
    """Bounds and reactions of a `mpc.safety.premise_watch.PremiseWatch`.

    Args:
        range_low: Lower ends of the actuators' ranges with their tolerance, shape (nu,).
        range_high: Upper ends.
        absurd: Errors of readings beyond which they cannot be right, shape (ny,).
        bounds: Bounds on the errors of readings by the tightening, shape (ny,).
        reactions: Index of the reaction to each premise, in the order of `Reaction` and `Premise`.
        safe: Set point during the reaction BACK_OFF, shape (ny,).
        jitter: How late or early a sample may be, in sample times.
        counted: Record of counted coverage; None where nothing was promised.
    """

    range_low: Array
    range_high: Array
    absurd: Array
    bounds: Array
    reactions: NDArray[np.intp]
    safe: Array
    jitter: float
    counted: CoverageTable | None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ControllerTable:
    """Limits of a controller's plans, with the records of its parts.

    Args:
        lower: Lower limits of plans, shape (N + 1, outputs); where limits learn, before what is known of errors.
        upper: Upper limits.
        wider_lower: Limits for the reaction WIDEN; without a wider tightening, the ordinary ones.
        wider_upper: Likewise.
        span: Widths of the actuators' ranges, shape (nu,).
        observer: Record of the observer.
        premises: Record of the premise watch.
        learnt: Record of limits that learn; None where they do not.
        ranges: Record of the laws' declared ranges; None where no law has one.
        moves: Record of the moves that errors were calibrated for; None where for any.
    """

    lower: Array
    upper: Array
    wider_lower: Array
    wider_upper: Array
    span: Array
    observer: ObserverTable
    premises: PremiseTable
    learnt: LearntErrorsTable | None
    ranges: RangeTable | None
    moves: MoveTable | None
