"""Base class of trainable models, which map free parameters to an explicit Lur'e system.

A model has three forms: the module holds *direct* parameters, any value of which keeps the model's guarantee;
`Model.system` maps them to the *explicit* matrices once per optimiser step; `Model.freeze` gives the deployed float64
system in physical units.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar, Generic, Self

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from controlrnn.checks import positive, put, size
from controlrnn.data import Scaler
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.models.parts.guarantee import Guarantee, Promise
from controlrnn.systems import Laws, LureSystem, System

S = TypeVar("S", bound=System, default=LureSystem)


class Model(nn.Module, Generic[S]):
    """Base class of the trainable models.

    ``S`` is the kind of system: `LureSystem` for all but the gated models. A model works on *scaled* signals: `system`,
    `forward` and the states are in scaled units; `freeze` folds ``input_scaler``, ``output_scaler`` and, where states
    are measured, ``state_scaler`` into the matrices. `identify` sets the scalers and ``dt`` from the data.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        dt: Sample time [s].
    """

    ADVICE: ClassVar[str] = "pass model.freeze(), the system with these parameters"

    def __init__(self, *, nu: int, ny: int, nx: int, dt: float = 1.0) -> None:
        super().__init__()
        self.nu = size("nu", nu)
        self.ny = size("ny", ny)
        self.nx = size("nx", nx)
        self.dt = positive("dt", dt)
        self.input_scaler = Scaler.identity(nu)
        self.output_scaler = Scaler.identity(ny)
        self.state_scaler: Scaler | None = None

    @abstractmethod
    def system(self) -> S:
        """Explicit system of tensors, in scaled units; gradients reach the direct parameters."""

    def forward(self, u: Tensor, x0: Tensor | None = None) -> Tensor:
        """Simulate outputs (..., T, ny) for inputs ``u`` (..., T, nu) from ``x0`` (..., nx), all in scaled units.

        Runs the compiled time loop where possible, else the eager one; see `controlrnn.kernels.simulate`.
        """
        from controlrnn.kernels import simulate  # not needed to build a model, and its compiler takes a while to load

        y: Tensor = simulate(self.system(), u, x0)[0]
        return y

    def freeze(self) -> S:
        """Convert the model to the system that is deployed: float64, read-only, in physical units.

        The explicit matrices are recomputed in float64 from the (exactly representable) trained parameters, so that a
        guarantee by construction does not suffer from the precision of the training.

        Raises:
            DataError: The parameters make no system: a matrix that has to be inverted is singular, or is not finite.
        """
        with torch.no_grad():
            explicit = self._explicit().frozen()
        system = explicit.scaled(self.input_scaler, self.output_scaler)
        # `set_units` has refused states of other systems.
        return system if self.state_scaler is None else system.with_states_in(self.state_scaler)  # type: ignore[attr-defined]

    def guarantee(self) -> Guarantee | None:
        """Guarantee of the frozen system by its parameterisation, as numbers to verify; None where there is none.

        `controlrnn.certification.certify_by_construction` turns it into certificates.
        """
        twin = self._twin()
        # Like `freeze`, from float64: numbers from float32 would not survive the verification.
        with torch.no_grad():
            explicit = twin._explicit()
            promise = twin._promise()
        if promise is None or not isinstance(explicit, LureSystem):
            return None
        activation = explicit.activation
        if isinstance(activation, Laws):
            raise SettingError("a guarantee by construction is one of a single activation, got neurons with laws")
        return promise.numbers(activation, self.input_scaler, self.output_scaler, self.state_scaler)

    def _explicit(self) -> S:
        """Explicit system in float64.

        Raises:
            DataError: A matrix that has to be inverted is singular.
        """
        try:
            return self._twin().system()
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # missing in torch's own stubs
            raise DataError(
                f"the parameters of {type(self).__name__} make no system, a matrix is singular ({error}): start from "
                "other parameters, or lower the learning rate"
            ) from error

    def penalty(self, progress: float) -> Tensor | None:  # noqa: ARG002  # for models that have one
        """Term that training adds to the loss at ``progress`` in [0, 1], e.g. a barrier; None where there is none."""
        return None

    def after_step(self, before: list[Tensor]) -> None:
        """Move the parameters back to where the guarantee holds; called after every optimiser step.

        Args:
            before: The parameters before the step, in order of ``parameters()``.
        """

    def _promise(self) -> Promise | None:
        """Guarantee in scaled units, for activations with slopes in [0, 1]; None where there is none."""
        return None

    def _twin(self) -> Self:
        """Copy of the model in float64 on the CPU."""
        return copy.deepcopy(self).to(device="cpu", dtype=torch.float64)

    def set_units(self, inputs: Scaler, outputs: Scaler, dt: float, states: Scaler | None = None) -> None:
        """Set the scalers between physical and scaled signals, and the sample time [s].

        Args:
            inputs: Scaler of ``nu`` channels.
            outputs: Scaler of ``ny`` channels.
            dt: Sample time [s].
            states: Scaler of the ``nx`` states, where these are measured; None leaves the model its own.

        Raises:
            ShapeError: A scaler has the wrong number of channels.
            SettingError: States of a model that is no Lur'e system, such as memory cells, have no units.
        """
        if states is not None and not isinstance(self.system(), LureSystem):
            raise SettingError(
                f"the states of {type(self).__name__} must keep their own units, since gates bound them: "
                "take initial_state='estimated'"
            )
        sizes = {"inputs": (inputs, self.nu), "outputs": (outputs, self.ny), "states": (states, self.nx)}
        for name, (scaler, n) in sizes.items():
            if scaler is not None and len(scaler.shift) != n:
                raise ShapeError(f"the scaler of the {name} must have {n} channels, got {len(scaler.shift)}")
        self.dt = positive("dt", dt)  # first, so that a refused value leaves the model as it was
        self.input_scaler = inputs
        self.output_scaler = outputs
        self.state_scaler = states

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        return sum(p.numel() for p in self.parameters())


def lure(
    *,
    A: Tensor,
    B2: Tensor,
    C2: Tensor,
    by: Tensor,
    bx: Tensor | None = None,
    D22: Tensor | None = None,
    B1: Tensor | None = None,
    C1: Tensor | None = None,
    D11: Tensor | None = None,
    D12: Tensor | None = None,
    bv: Tensor | None = None,
    D21: Tensor | None = None,
    activation: str = "tanh",
    layers: tuple[int, ...] = (),
    dt: float,
    feedforward: bool = False,
) -> LureSystem:
    """Assemble a `LureSystem` of tensors; matrices that are left out are zero.

    With ``feedforward`` the layers form a feedforward network, so that gradients of other entries, which are zero, are
    not computed.
    """
    nx, nu, ny = A.shape[0], B2.shape[1], C2.shape[0]
    nv = sum(layers)

    def or_zero(value: Tensor | None, *shape: int) -> Tensor:
        return A.new_zeros(shape) if value is None else value

    system = LureSystem(
        A=A, B1=or_zero(B1, nx, nv), B2=B2, bx=or_zero(bx, nx),
        C1=or_zero(C1, nv, nx), D11=or_zero(D11, nv, nv), D12=or_zero(D12, nv, nu), bv=or_zero(bv, nv),
        C2=C2, D21=or_zero(D21, ny, nv), D22=or_zero(D22, ny, nu), by=by,
        activation=activation, layers=layers, dt=dt,  # type: ignore[arg-type]  # the enum takes its own values
    )  # fmt: skip
    put(system, feedforward=feedforward)
    return system
