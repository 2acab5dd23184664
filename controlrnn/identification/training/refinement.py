"""Refinement, the second stage of `identify`: a second-order method on whole records, from Adam's best parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import FileFormatError, SettingError
from controlrnn.identification.losses.base import Loss
from controlrnn.identification.losses.objective import Objective, square_weight
from controlrnn.identification.optimisers.lbfgs import LBFGS
from controlrnn.identification.optimisers.levenberg_marquardt import LevenbergMarquardt
from controlrnn.identification.training.loop import Trainer
from controlrnn.identification.training.settings import InitialState, Refine, Settings
from controlrnn.models import Model
from controlrnn.systems import LureSystem

# Beyond so many unknowns Levenberg-Marquardt takes longer to factorise the normal equations than to simulate.
_MOST_UNKNOWNS = 2000

_REMEMBERED = ("optimiser/steps", "optimiser/changes")  # arrays of L-BFGS whose length grows up to its memory
_NONE = np.zeros(0)


class Refinement:
    """State of the second stage of training; the `Trainer` keeps history and best parameters.

    Args:
        trainer: Trainer after `Trainer.begin_refinement`, with its model in float64.
        arrays: State that `arrays` returned, to continue from there.
    """

    def __init__(self, trainer: Trainer, arrays: Mapping[str, NDArray[np.float64]] | None = None) -> None:
        settings = trainer.settings
        if arrays is not None and arrays.get("states", _NONE).shape not in {
            (0, 0),
            (len(trainer.train), trainer.model.nx),
        }:
            raise FileFormatError("the refinement's states are those of other records")
        states = trainer.starting_states() if arrays is None else arrays.get("states")
        self._trainer = trainer
        self._states = None if states is None or not states.size else states
        self._objective = Objective(
            trainer.model,
            trainer.train,
            trainer.loss,
            self._states,
            free=settings.initial_state is InitialState.ESTIMATED,
            segment=settings.shooting,
            stiffness=settings.stiffness,
            step=settings.steps,
        )
        x = self._objective.start()
        if arrays is not None:
            x = _of_shape(x, arrays.get("optimiser/x"))
        self._optimiser: LBFGS | LevenbergMarquardt
        if settings.refine is Refine.LBFGS:
            self._optimiser = LBFGS(self._objective.value_and_gradient, x)
        else:
            self._optimiser = LevenbergMarquardt(self._objective, x)
        self.iterations = 0
        self._stuck = False
        if arrays is not None:
            _refuse_misfits(self.arrays(), arrays)
            self._optimiser.restore({k.removeprefix("optimiser/"): v for k, v in arrays.items()})
            self.iterations = int(arrays["counters"][0])
            self._stuck = bool(arrays["counters"][1])

    @property
    def done(self) -> bool:
        """Whether all iterations were done, or no step descends any further."""
        return self._stuck or self.iterations >= self._trainer.settings.refine_steps

    @property
    def due(self) -> bool:
        """Whether a validation is due."""
        return self.iterations % self._optimiser.validate_every == 0

    def advance(self) -> None:
        """Do one iteration and set the model to its result."""
        self._stuck = not self._optimiser.iterate()
        self._objective.put(self._optimiser.x)
        self.iterations += 1
        self._trainer.losses.append(self._optimiser.value)
        self._trainer.step += 1

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """State of the refinement: everything that the next iteration depends on."""
        counters = np.array([self.iterations, self._stuck], dtype=np.float64)
        states = np.zeros((0, 0)) if self._states is None else self._states
        optimiser = {f"optimiser/{n}": v for n, v in self._optimiser.arrays().items()}
        return {"counters": counters, "states": states, **optimiser}


def _of_shape(expected: NDArray[np.float64], got: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return ``got`` after checking that it has the shape of ``expected``."""
    if got is None or got.shape != expected.shape:
        raise FileFormatError(f"the refinement must be at a point of shape {expected.shape}: it is of another run")
    return got


def _refuse_misfits(expected: Mapping[str, NDArray[np.float64]], got: Mapping[str, NDArray[np.float64]]) -> None:
    """Raise FileFormatError where names or shapes differ, except for the number of steps that L-BFGS remembers."""

    def shape(name: str, arrays: Mapping[str, NDArray[np.float64]]) -> tuple[int, ...]:
        own = arrays[name].shape
        return (len(got[_REMEMBERED[0]]), *own[1:]) if name in _REMEMBERED and arrays is expected else own

    wrong = [name for name in {*expected, *got} if name not in expected or name not in got]
    wrong = wrong or [name for name in expected if shape(name, expected) != shape(name, got)]
    if wrong or got["counters"][1] not in (0, 1) or not 0 <= got["counters"][0] <= 2**31:
        raise FileFormatError(f"the refinement's {(wrong or ['counters'])[0][:64]!r} is of another run")


def check_refinable(model: Model, loss: Loss, settings: Settings) -> None:
    """Refuse, before any work, a model, loss or settings that the second stage cannot handle.

    Raises:
        SettingError: The model needs a projection after every step, which only Adam does; or it is too large or no
            Lur'e system, or the loss has no squares, or shooting lacks estimated initial states.
    """
    if settings.refine is Refine.NONE:
        return
    if type(model).after_step is not Model.after_step:
        raise SettingError(
            f"{type(model).__name__} is brought back to its set after every step, which only Adam does: "
            "use refine='none'"
        )
    if settings.shooting is not None and (settings.initial_state is not InitialState.ESTIMATED or loss.washout):
        raise SettingError("shooting needs initial_state='estimated' and a loss without washout")
    if settings.refine is Refine.LEVENBERG_MARQUARDT:
        square_weight(loss)
        if not isinstance(model.system(), LureSystem):
            raise SettingError(
                f"Levenberg-Marquardt knows the sensitivities of Lur'e systems only, {type(model).__name__} is none: "
                "use refine='lbfgs'"
            )
        if model.n_parameters > _MOST_UNKNOWNS:
            raise SettingError(
                f"Levenberg-Marquardt takes up to {_MOST_UNKNOWNS} parameters, got {model.n_parameters}: "
                "use refine='lbfgs'"
            )
