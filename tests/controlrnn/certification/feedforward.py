"""A feedforward network as the outputs of one step, and weights whose Lipschitz constant others published."""

import numpy as np

from controlrnn.systems import LureSystem

W0 = np.array(
    [
        [-0.3076252260557657, 1.349591265369501],
        [0.19282654562744622, 1.4065579613180736],
        [0.16220601299327111, -1.0186127214970553],
    ]
)
W1 = np.array([[0.8604499368154316, -0.6393893788146486, 0.41369547674065327]])


def feedforward(weights, biases, activation):
    """x+ = 0, y = W_L s(... s(W_1 x + b_1) ...): the Lipschitz constant of the chain is the bound of horizon zero."""
    layers = tuple(len(b) for b in biases)
    nv, nx, ny = sum(layers), weights[0].shape[1], len(weights[-1])
    C1, D11, D21 = np.zeros((nv, nx)), np.zeros((nv, nv)), np.zeros((ny, nv))
    C1[: layers[0]] = weights[0]
    cuts = np.cumsum([0, *layers])
    for i in range(1, len(layers)):
        D11[cuts[i] : cuts[i + 1], cuts[i - 1] : cuts[i]] = weights[i]
    D21[:, cuts[-2] :] = weights[-1]
    zero = np.zeros
    return LureSystem(
        A=zero((nx, nx)), B1=zero((nx, nv)), B2=zero((nx, 1)), bx=zero(nx), C1=C1, D11=D11, D12=zero((nv, 1)),
        bv=np.concatenate(biases), C2=zero((ny, nx)), D21=D21, D22=zero((ny, 1)), by=zero(ny), activation=activation,
        layers=layers, dt=1.0,
    )  # fmt: skip
