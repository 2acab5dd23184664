"""Claims of the Lipschitz-RNN paper, decided from its study's rows; about accuracy after long training alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from controlrnn.checks import Array
from experiments.papers.claims import Claim, Decision, claimed, decide, decide_all, joined, unrefuted
from experiments.shared.study import Row

PAPER = "Lipschitz RNN"
TABLE_3 = {  # accuracy [%] after PGD, DeepFool in both norms; largest eigenvalue, trace, condition number
    "lipschitz": (93.0, 89.2, 54.1, 0.14, 3.1, 23.2), "antisymmetric": (84.7, 83.4, 44.3, 0.24, 4.8, 35.5),
    "ode": (88.5, 69.6, 44.5, 0.30, 4.7, 37.6),
}  # fmt: skip
PIXELS = (("ordered", 128, 99.0), ("permuted", 128, 97.2), ("ordered", 64, 98.1), ("permuted", 64, 92.3))
WHITE, SALT = (0.1, 0.2, 0.4), (0.05, 0.1, 0.2)
_SHORT = "3 epochs of 3000 images: too short to decide"
_AS_ACCURATE = 0.5  # points within which two schemes are as accurate
_ROUNDING = 1e-6  # of the largest eigenvalue, up to which the least may be zero
Rows = Mapping[str, Sequence[Row]]
_claim = partial(claimed, PAPER)


def claims(rows: Rows, theory: Row, *, short: bool) -> list[Claim]:
    """Decide the paper's claims; those about accuracy only after long training."""
    return [*_propositions(theory), *_perturbed(rows, _SHORT if short else "")]


def _propositions(theory: Row) -> Iterator[Claim]:
    """Both propositions, as printed and as corrected."""
    yield _claim(
        "a Hurwitz A makes every equilibrium stable",
        "proposition 1",
        [theory["grown_1"]],
        decide_all([theory["grown_1"] < 1]),
        "times after 5 time units",
        "counterexample h' = -0.1 h + tanh(5 h) at 0: a millionth grows",
    )
    yield _claim(
        "it does where lambda_max(A + A')/2 + |W| < 0",
        "corrected proposition 1",
        [100 * theory["corrected_1"]],
        decide_all([theory["corrected_1"] == 1, theory["conditions"] >= 20]),
        "% of cases",
        f"{theory['conditions']} random pairs that meet it, 20 slope patterns each",
    )
    yield _claim(
        "Re lambda(A) - gamma lies within (1 - beta) lambda(M + M') - gamma",
        "proposition 2 as printed",
        [100 * theory["printed_2"]],
        decide_all([theory["printed_2"] == 1]),
        "% of cases",
        "A has gamma in it already, which thus counts twice: beta = 1 gives real parts -gamma, not 0",
    )
    yield _claim(
        "Re lambda(A) lies within (1 - beta) lambda(M + M') - gamma",
        "corrected proposition 2",
        [100 * theory["corrected_2"]],
        decide_all([theory["corrected_2"] == 1]),
        "% of cases",
        "",
    )


def _perturbed(rows: Rows, remark: str) -> Iterator[Claim]:
    """Accuracy against the other units, on clean and on perturbed images."""
    columns = {"accuracy": "clean", "pgd": "after PGD"}
    columns |= {f"white{n}": f"white noise {sigma}" for n, sigma in enumerate(WHITE)}
    columns |= {f"salt{n}": f"salt and pepper {part}" for n, part in enumerate(SALT)}
    for column, where in columns.items():
        for other in (unit for unit in rows if unit != "lipschitz"):
            own, others = (np.array([_value(row, column) for row in rows[unit]]) for unit in ("lipschitz", other))
            published = "figure 3, table 1"
            if column == "pgd":
                published = f"{TABLE_3['lipschitz'][0]} %, {TABLE_3[other][0]} % (table 3)" if other in TABLE_3 else "-"
            decided = Decision.NOT_DECIDED if remark else decide(own - others)
            yield _claim(
                f"more accurate than {other}: {where}",
                published,
                own - others,
                decided,
                "% points",
                joined(f"Lipschitz {np.median(own):.1f} %", remark),
            )


def more_claims(
    rows: Rows,
    variants: Mapping[str, Mapping[float, Sequence[Row]]],
    carts: Mapping[str, Row],
    pixels: Rows,
    *,
    short: bool,
) -> list[Claim]:
    """Decide the claims on permuted and single pixels, DeepFool, curvature, ablations, and units on carts."""
    trained = [*_pixels(rows, pixels), *_fooling(rows), *_curvature(rows), *_ablations(variants)]
    if short:
        trained = [_open(claim) for claim in trained]
    return [*trained, *_always(carts)]


def _open(claim: Claim) -> Claim:
    """The claim as it stands after a training that is too short to decide."""
    return replace(claim, decided=Decision.NOT_DECIDED, remark=joined(claim.remark, _SHORT))


def _pixels(rows: Rows, pixels: Rows) -> Iterator[Claim]:
    """Accuracy on single pixels, and on permuted ones against the other units."""
    for task, states, value in PIXELS:
        reached = [row["accuracy"] for row in pixels.get(f"{task} {states}", [])]
        yield _claim(
            f"{value} % of single pixels with {states} states, {task}",
            f"{value} % (table 1)",
            reached,
            decide([0.3 - abs(v - value) for v in reached]),
            "%",
            "reached: within 0.3 points" if reached else "784 samples, in the full run alone",
        )
    for other in (unit for unit in rows if unit != "lipschitz"):
        own, others = (np.array([row["permuted"]["accuracy"] for row in rows[unit]]) for unit in ("lipschitz", other))
        yield _claim(
            f"more accurate than {other}: permuted pixels",
            "table 1",
            own - others,
            decide(own - others),
            "% points",
            f"Lipschitz {np.median(own):.1f} %",
        )


def _fooling(rows: Rows) -> Iterator[Claim]:
    """Size of DeepFool's perturbations."""
    for other in ("antisymmetric", "ode"):
        for n, (column, norm) in enumerate((("deepfool_2", "2-norm"), ("deepfool_inf", "inf-norm")), 1):
            ratio = _ratio(rows, "lipschitz", other, column)
            yield _claim(
                f"harder to fool than {other}: DeepFool, {norm}",
                f"accuracy {TABLE_3['lipschitz'][n]} %, {TABLE_3[other][n]} % (table 3)",
                ratio,
                decide(np.log(ratio).tolist()),
                "times the size",
                "their radius is not stated",
            )


def _curvature(rows: Rows) -> Iterator[Claim]:
    """Largest eigenvalue and trace of the Hessian."""
    for other in ("antisymmetric", "ode"):
        for n, (column, what) in enumerate((("largest", "largest eigenvalue"), ("trace", "trace")), 3):
            ratio = _ratio(rows, other, "lipschitz", column)
            yield _claim(
                f"flatter than {other}: {what} of the Hessian",
                f"{TABLE_3['lipschitz'][n]}, {TABLE_3[other][n]} (table 3)",
                ratio,
                decide([np.log(r) if r > 0 else None for r in ratio]),
                "times that of Lipschitz",
            )
    trained = [row for unit in TABLE_3 for row in rows[unit]]
    published = "; ".join(f"{unit} {values[5]}" for unit, values in TABLE_3.items())
    yield _claim(
        "the Hessian has a condition number",
        f"{published} (table 3)",
        [row["least"] for row in trained],
        decide_all([row["least"] > -_ROUNDING * row["largest"] for row in trained]),
        "least eigenvalue found",
        "undefined where an eigenvalue is not positive",
    )


def _ablations(variants: Mapping[str, Mapping[float, Sequence[Row]]]) -> Iterator[Claim]:
    """Weights of the linear part and of the skew part, and the implicit scheme."""
    reached = {
        name: {value: np.array([row["accuracy"] for row in own]) for value, own in cases.items()}
        for name, cases in variants.items()
    }
    for name, best, others, text in (
        ("alpha", 1.0, (0.0, 2.0), "the linear part helps"),
        ("beta", 0.65, (0.5, 1.0), "mixtures are best"),
    ):
        for other in others:
            change: Any = reached[name][best] - reached[name][other]
            yield _claim(f"{text}: {name} {best:g} before {other:g}", "figure 2", change, decide(change), "% points")
    change = reached["implicitness"][1.0] - reached["implicitness"][0.0]
    yield _claim(
        "the explicit scheme is as accurate as IMEX",
        "they use it (sec. 5)",
        change,
        decide(_AS_ACCURATE - np.abs(change)),
        "% points for IMEX",
        f"within {_AS_ACCURATE} points",
    )


def _always(carts: Mapping[str, Row]) -> Iterator[Claim]:
    """Claims that a short training decides as well as a long one, or none can."""
    yield _claim(
        "most accurate on pixels of CIFAR10",
        "63.2 %, padded 55.2 % (table 2)",
        [],
        Decision.NOT_DECIDED,
        "",
        "the images are not at hand",
    )
    proven = [row["rate"] for row in carts.values()]
    count = sum(rate is not None for rate in proven)
    yield _claim(
        "units identified on the carts are stable",
        "proposition 1",
        [v for v in proven if v is not None],
        unrefuted(decide_all([v is not None for v in proven])),
        "proven rate",
        f"contraction proven for {count} of {len(proven)}; NSE "
        + ", ".join(f"{unit} {row['nse_3']:.2f}" for unit, row in carts.items()),
    )


def _ratio(rows: Rows, one: str, other: str, column: str) -> Array:
    """Ratio of a column of two units, one a seed; NaN where a value is missing."""
    values = [np.array([np.nan if row[column] is None else row[column] for row in rows[u]]) for u in (one, other)]
    return np.asarray(values[0] / values[1], dtype=np.float64)


def _value(row: Row, column: str) -> float:
    """Value of a column; ``white1`` is the second of the list ``white``."""
    return float(row[column[:-1]][int(column[-1])] if column[-1].isdigit() else row[column])
