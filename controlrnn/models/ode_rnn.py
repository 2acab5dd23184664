"""Neural ODE and antisymmetric RNN: Euler steps of h' = s(W h + U u + b), y = D h + d.

    NeuralODERNN       h+ = h + e s(W h + U u + b)            (the baseline of Erichson et al., ICLR 2021)
    AntisymmetricRNN   the same with W = K - K' - gamma I     (Chang et al., "AntisymmetricRNN", ICLR 2019, eq. 10)

As Lur'e systems A = I, B1 = e I, C1 = W. The eigenvalues of a skew W are imaginary, so that h neither decays nor grows;
gamma > 0 compensates the error of Euler's method. Neither model guarantees anything for the discrete map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controlrnn.checks import positive
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.draws import generator, normal, uniform
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class NeuralODERNN(Model):
    """Residual recurrent network, one Euler step of a neural differential equation per sample.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        step: Step e, in units of the network's own time per sample; 0.01 to 0.03 in the papers, for 784 samples.
        decay: The weight starts around ``-decay I``, which gives time constants of some tens of samples; with 0 its
            start is unbiased, as in the papers: the network then integrates and hardly forgets.
        init_std: Standard deviation of the weight's initial entries; 0.3 / sqrt(nx) when left out, 0.1 / nx in the code
            of Erichson et al.
        activation: Activation function s.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    @typed()
    def __init__(
        self,
        *,
        nu: int,
        ny: int,
        nx: int,
        step: float = 0.1,
        decay: float = 0.5,
        init_std: float | None = None,
        activation: Activation | str = Activation.TANH,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.step = positive("step", step)
        self.activation = Activation(activation)
        rng = generator(seed)
        self.K = normal(rng, nx, nx, std=0.3 * nx**-0.5 if init_std is None else positive("init_std", init_std))
        with torch.no_grad():
            self.K.sub_(positive("decay", decay, zero=True) * torch.eye(nx))
        self.U = uniform(rng, nx, nu, bound=nu**-0.5)
        self.b = nn.Parameter(torch.zeros(nx))
        self.D = uniform(rng, ny, nx, bound=nx**-0.5)
        self.d = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        eye = torch.eye(self.nx, dtype=self.K.dtype, device=self.K.device)
        return lure(
            A=eye,
            B1=self.step * eye,
            B2=torch.zeros_like(self.U),
            C1=self._weight(),
            D12=self.U,
            bv=self.b,
            C2=self.D,
            by=self.d,
            activation=self.activation,
            layers=(self.nx,),
            dt=self.dt,
        )

    def _weight(self) -> Tensor:
        """Recurrent weight W, shape (nx, nx)."""
        return self.K


class AntisymmetricRNN(NeuralODERNN):
    """Residual recurrent network with a skew weight; further arguments as in `NeuralODERNN`.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        step: Step e; the paper uses 0.01 for 784 samples.
        gamma: Damping, >= 0.
        init_std: As in `NeuralODERNN`, of the entries of K.
        activation: Activation function s.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    def __init__(
        self,
        *,
        nu: int,
        ny: int,
        nx: int,
        step: float = 0.1,
        gamma: float = 0.1,
        init_std: float | None = None,
        activation: Activation | str = Activation.TANH,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, step=step, init_std=init_std, activation=activation, dt=dt, seed=seed)
        self.gamma = positive("gamma", gamma, zero=True)

    def _weight(self) -> Tensor:
        eye = torch.eye(self.nx, dtype=self.K.dtype, device=self.K.device)
        return self.K - self.K.T - self.gamma * eye
