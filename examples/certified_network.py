"""
A network of somebody else, certified
=====================================

One step of a recurrent network comes as an ONNX file, as torch exports it. It is read as the Lur'e system that it is,
and certified: how fast does it forget, how far apart can two of its runs be? An attack shows how near the bound is to
the worst case.
"""

import tempfile

import numpy as np
import torch
from matplotlib.figure import Figure

from controlrnn.certification import attack_horizon, certify_contraction, certify_horizon
from controlrnn.exchange import from_onnx


class Step(torch.nn.Module):
    """Two layers, and a state that leaks."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.back = torch.nn.Linear(3, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2)

    def forward(self, x, u):
        hidden = torch.tanh(self.second(torch.tanh(self.first(torch.cat([x, u], dim=1)))))
        return 0.6 * x + 0.3 * self.back(hidden), x[:, :1]


def main(folder):
    torch.manual_seed(0)
    ports = {"input_names": ["x", "u"], "output_names": ["x_next", "y"], "dynamo": False}
    torch.onnx.export(Step(), (torch.zeros(1, 2), torch.zeros(1, 1)), f"{folder}/step.onnx", **ports)
    system = from_onnx(f"{folder}/step.onnx", dt=1.0)
    print(f"{system.nx} states, {system.nv} neurons in layers of {system.layers}")
    print(certify_contraction(system).summary())
    radii = {"initial_radius": 0.5, "input_radius": 0.05}
    certificate = certify_horizon(system, 15, **radii)
    attack = attack_horizon(system, 15, **radii, input_range=(-np.ones(1), np.ones(1)), starts=16, steps=20, seed=0)
    figure = Figure(figsize=(7, 3), layout="constrained")
    panel = figure.subplots()
    panel.plot(certificate.bounds, color="C3", label="certified bound")
    panel.plot(attack.differences, "x", color="k", label="reached by an attack")
    panel.set(xlabel="step", ylabel="difference of outputs", ylim=(0, None))
    panel.legend()
    return system, certificate, attack, figure


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        system, certificate, attack, figure = main(scratch)
