"""Export of frozen systems as plain C99: two files that need only the maths library and memory on the stack.

The weights are written with as many digits as give the same doubles back. Every operation is an affine map of a growing
vector z: a Lur'e system starts with z = (x, u), appends the neurons layer by layer (so that the zeros of D11 cost
nothing), and computes x+ and y from z; a gated cell does the same with its gates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, shown
from controlrnn.errors import SettingError
from controlrnn.export.c_laws import LAW_VALUES, law_tables
from controlrnn.records import write_atomic
from controlrnn.systems import Activation, Cell, GatedSystem, Laws, LureSystem, Precision, System
from controlrnn.systems.activations import LEAK
from controlrnn.typed import typed

Arrays = dict[str, NDArray[Any]]
_ACTIVATIONS = {
    Activation.TANH: "tanh(v)",
    Activation.RELU: "v > 0 ? v : 0",
    Activation.SIGMOID: "0.5 + 0.5 * tanh(0.5 * v)",
    Activation.LEAKY_RELU: f"v > 0 ? v : {LEAK!r} * v",
}
_LANES = 4
_LANE_ACTIVATIONS = {Activation.TANH: "lanes_tanh(v)", Activation.SIGMOID: "0.5 + 0.5 * lanes_tanh(0.5 * v)"}
_PLAIN = re.compile(r"[ !-)+->@-\[\]-~]")  # printable ASCII but for * ? and backslash
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,200}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,200}")
_TESTED = 20  # samples of the self-test


@typed()
def to_c(
    system: System,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    precision: Precision | str = Precision.FLOAT64,
) -> tuple[Path, Path]:
    """Write a frozen system as a C source file and its header.

    The code offers ``NAME_step(x, u, x_next)`` and ``NAME_output(x, u, y)`` on arrays of doubles, or floats, in
    physical units; ``x_next`` may be ``x``. The effect of rounding is bounded by
    `controlrnn.certification.execution_error`. Compiled with ``-DNAME_SELF_TEST`` (the name in capitals) the source is
    a program that compares the code with stored results of the original and exits with 0 where they agree.

    Args:
        system: A frozen system.
        path: The source file, ending in ``.c``; the header ``.h`` is put beside it. Parent folders are made.
        name: Prefix of all public names; the file's stem when left out.
        precision: Precision of everything that is stored and computed; float32 rounds the weights, and its self-test
            allows for that.

    Returns:
        Paths of the source and the header.

    Raises:
        SettingError: ``system`` is not frozen or of a kind without C code, ``path`` does not end in ``.c``, ``name`` is
            not a C identifier, or a weight overflows in float32, or neurons have
            declared ranges, which float32 would round.
    """
    source, single = Path(path), Precision(precision) is Precision.FLOAT32
    name = source.stem if name is None else name
    if not system.is_frozen:
        raise SettingError("to_c needs a frozen system, got one of tensors: call model.freeze() first")
    if source.suffix != ".c":
        raise SettingError(f"path must end in .c, got {source.name!r}")
    checked_target(source, name)
    if isinstance(system, LureSystem):
        if single and isinstance(system.activation, Laws):
            raise SettingError("float32 would round the declared ranges of laws: export with precision float64")
        arrays, body = lure_code(system)
    elif isinstance(system, GatedSystem):
        arrays, body = _gated(system)
    else:
        raise SettingError(f"system must be a LureSystem or a GatedSystem, got {type(system).__name__}")
    words = {
        "name": name,
        "NAME": name.upper(),
        "nx": system.nx,
        "nu": system.nu,
        "ny": system.ny,
        "dt": repr(system.dt),
        "digest": system.digest,
        "header": f"{source.stem}.h",
        "samples": _TESTED,
        "precision": str(precision),
        "tolerance": repr(_single_tolerance(system) if single else 1e-9),
    }
    code, head = _HEAD + AFFINE + body + _SELF_TEST, _HEADER
    if single:
        code, head = _in_float32(code), _in_float32(head)
    text = Template(code).substitute(
        words, weights=constants(arrays, single=single), reference=constants(_reference(system), single=single)
    )
    # The header first: a source without its header would not compile, a header alone does no harm.
    header = write_atomic(source.with_suffix(".h"), Template(head).substitute(words).encode())
    return write_atomic(source, text.encode()), header


def comment(text: object, longest: int = 2000) -> str:
    """Escape ``text`` for use inside a C comment, so that nothing in it can end the comment.

    Printable ASCII stays. Characters with a meaning in C (backslash, star, and question mark, of which two begin a
    trigraph) and all others, line ends among them, are written as their code, e.g. ``{U+002A}``.

    Args:
        text: Any text.
        longest: Characters of ``text`` that are kept; the rest is cut off.
    """
    said = str(text)
    more = "" if len(said) <= longest else f"... ({len(said) - longest} more characters)"
    return "".join(c if _PLAIN.fullmatch(c) else f"{{U+{ord(c):04X}}}" for c in said[:longest]) + more


def checked_target(source: Path, name: str) -> None:
    """Refuse names of file or prefix that would be unsafe in C source.

    Raises:
        SettingError: ``name`` is no C identifier, or the file's name has characters that an ``#include`` should not.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise SettingError(f"name must be a C identifier, got {shown(name)}: pass name= where the file's stem is none")
    if not _FILE.fullmatch(source.name):
        raise SettingError(f"the file's name must be of letters, digits and any of '._ -', got {shown(source.name)}")


def lure_code(system: LureSystem, *, wide: bool = False) -> tuple[Arrays, str]:
    """Weight tables and C functions ``${name}_step``, ``${name}_output`` and ``neurons`` of a Lur'e system.

    Layer k = 1, 2, ... computes ``v = Mk z + bk`` from the z of the layers before; then ``x+ = Mx z + bx`` and
    ``y = My z + by``.

    Args:
        system: The system.
        wide: Whether layers and the next state are computed by ``wide`` of ``mpc/c_code/templates/loop.c``, several
            rows at a time; the weights are then there twice.
    """
    arrays: Arrays = {}
    lines, at = [], system.nx + system.nu
    lanes = _LANE_ACTIVATIONS.get(system.activation) if wide and not isinstance(system.activation, Laws) else None
    for k, (start, stop) in enumerate(system.blocks, 1):
        # Only the columns that this layer may use: the later part of D11 is zero.
        arrays[f"M{k}"] = np.hstack([system.C1[start:stop], system.D12[start:stop], system.D11[start:stop, :start]])
        if lanes:
            arrays |= {f"T{k}": _in_lanes(arrays[f"M{k}"]), f"t{k}": _in_lanes(system.bv[start:stop, None])}
            lines.append(f"    wide({stop - start}, {at + start}, T{k}, t{k}, z, z + {at + start}, lanes_activation);")
            continue
        arrays[f"b{k}"] = system.bv[start:stop]
        lines.append(f"    affine({stop - start}, {at + start}, M{k}, b{k}, z, z + {at + start});")
        own = f"i - {at}, " if isinstance(system.activation, Laws) else ""
        lines.append(f"    for (int i = {at + start}; i < {at + stop}; ++i) z[i] = activation({own}z[i]);")
    arrays["Mx"] = np.hstack([system.A, system.B2, system.B1])
    arrays |= {"My": np.hstack([system.C2, system.D22, system.D21]), "by": system.by}
    if isinstance(system.activation, Laws):
        arrays |= law_tables(system.activation)
        function = LAW_VALUES
    else:
        function = f"static double activation(double v) {{ return {_ACTIVATIONS[system.activation]}; }}\n\n"
    if lanes:
        function = f"static inline Lanes lanes_activation(Lanes v) {{ return {lanes}; }}\n\n"
    if wide and system.nx:
        arrays |= {"Tx": _in_lanes(arrays["Mx"]), "tx": _in_lanes(system.bx[:, None])}
        last = "    wide(NX, NZ, Tx, tx, z, x_next, lanes_same);"
    else:
        arrays["bx"] = system.bx
        last = "    affine(NX, NZ, Mx, bx, z, x_next);"
    read = at + system.nv if system.D21.any() else at
    body = Template(_LURE).safe_substitute(layers="\n".join(lines), nz=at + system.nv, last=last, read=read)
    return arrays, (function if system.nv else "") + body


def _in_lanes(matrix: Array) -> Array:
    """Rows of a matrix four by four, filled up with zeros: all columns of the first four, then those of the next."""
    rows, columns = matrix.shape
    padded = np.zeros((-(-rows // _LANES) * _LANES, columns))
    padded[:rows] = matrix
    return padded.reshape(-1, _LANES, columns).transpose(0, 2, 1).ravel()


def _gated(system: GatedSystem) -> tuple[Arrays, str]:
    """Weight tables and C functions ``${name}_step`` and ``${name}_output`` of a gated system."""
    n, both = system.units, np.hstack([system.W, system.U])
    first = (2 if system.cell is Cell.GRU else 4) * n  # the GRU's candidate needs the reset gate first
    arrays: Arrays = {"Mg": both[:first], "bg": system.b[:first], "Mx": system.C, "by": system.by}
    if system.cell is Cell.GRU:
        arrays |= {"Mn": both[first:], "bn": system.b[first:]}
    body = _GRU if system.cell is Cell.GRU else _LSTM
    output = _READ_NEXT if system.feedthrough else _READ
    return arrays, Template(_SIGMOID + body + output).safe_substitute(n=n, gates=first)


def _reference(system: System, kind: type[np.floating[Any]] = np.float64) -> Arrays:
    """Random states and inputs for the self-test, rounded to ``kind``, with the next states and outputs."""
    rng = np.random.default_rng(0)
    x, u = (rng.normal(size=(_TESTED, n)).astype(kind).astype(np.float64) for n in (system.nx, system.nu))
    return {"test_x": x, "test_u": u, "test_next": system.step(x, u), "test_y": system.output(x, u)}


def _single_tolerance(system: System) -> float:
    """Tolerance of the self-test in float32: 100 times what rounding the weights and arguments changes, and 1e-5."""
    arrays, meta = system.record()
    rounded: Any = type(system).from_record({n: _floats(n, a) for n, a in arrays.items()}, meta)
    here = _reference(system)
    there = _reference(rounded, np.float32)
    # The error measure of the self-test's `worse`.
    apart = [np.abs(there[n] - here[n]) / (1 + np.abs(here[n])) for n in ("test_next", "test_y")]
    return float(1e-5 + 100 * max(np.max(a, initial=0.0) for a in apart))


def _in_float32(code: str) -> str:
    """Translate C code on doubles to floats."""
    code = re.sub(r"\bdouble\b", "float", code)
    code = re.sub(r"\b(tanh|fabs)\(", r"\1f(", code)
    # Literals such as 0.5 get the suffix f; else C would compute with them in double.
    return re.sub(r"(?<![\w.])(\d+\.\d+)(?![\w.])", r"\1f", code)


def _floats(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Round an array to float32 and return it as float64; raises SettingError where a number overflows."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(array, np.float32).astype(np.float64)
    if not np.isfinite(rounded[np.isfinite(array)]).all():
        raise SettingError(f"{name} overflows in float32, got {np.abs(array).max():.3g}: use float64")
    return rounded


def constants(arrays: Mapping[str, NDArray[Any]], *, single: bool = False) -> str:
    """C definitions of constant arrays, matrices row by row, with all digits that restore the same numbers.

    Args:
        arrays: Arrays by their names in C.
        single: Whether to round to float32.

    Raises:
        SettingError: A number overflows in float32.
    """
    lines = []
    for name, array in arrays.items():
        kind = "int" if np.issubdtype(array.dtype, np.integer) else "float" if single else "double"
        ending = "f" if kind == "float" else ""
        if kind == "float":
            array = _floats(name, array)
        rows = ",\n    ".join(", ".join(f"{v!r}{ending}" for v in row) for row in np.atleast_2d(array).tolist())
        text = rows.replace("inf", "INFINITY").replace("nan", "NAN")
        lines.append(f"static const {kind} {name}[{' * '.join(map(str, array.shape))}] = {{\n    {text}\n}};")
    return "\n".join(lines)


_HEADER = """\
/* Discrete-time model, written by controlrnn. Physical units, sample time ${NAME}_DT seconds. */
#ifndef ${NAME}_H
#define ${NAME}_H

#define ${NAME}_NX $nx
#define ${NAME}_NU $nu
#define ${NAME}_NY $ny
#define ${NAME}_DT $dt
/* SHA-256 of the model, as certificates name it. */
#define ${NAME}_DIGEST "$digest"

#ifdef __cplusplus
extern "C" {
#endif

/* Next state from state x and input u; x_next may be x. */
void ${name}_step(const double x[${NAME}_NX], const double u[${NAME}_NU], double x_next[${NAME}_NX]);

/* Output at state x and input u. */
void ${name}_output(const double x[${NAME}_NX], const double u[${NAME}_NU], double y[${NAME}_NY]);

#ifdef __cplusplus
}
#endif
#endif
"""

_HEAD = """\
/* Discrete-time model, written by controlrnn; digest $digest; computed in $precision. */
#include "$header"

#include <math.h>
#include <string.h>

enum { NX = $nx, NU = $nu, NY = $ny };

$weights

"""

AFFINE = """\
/* out = M z + b */
static void affine(int rows, int columns, const double *M, const double *b, const double *z, double *out)
{
    for (int i = 0; i < rows; ++i) {
        const double *row = M + i * columns;
        double s0 = b[i], s1 = 0, s2 = 0, s3 = 0; /* four independent sums can be computed in parallel */
        int j = 0;
        for (; j + 3 < columns; j += 4) {
            s0 += row[j] * z[j];
            s1 += row[j + 1] * z[j + 1];
            s2 += row[j + 2] * z[j + 2];
            s3 += row[j + 3] * z[j + 3];
        }
        for (; j < columns; ++j) s0 += row[j] * z[j];
        out[i] = (s0 + s1) + (s2 + s3);
    }
}

"""

_LURE = """\
enum { NZ = $nz, READ = $read /* numbers of z, the first ones, that outputs read */ };

/* z = (x, u, w): the neurons w layer by layer. */
static void neurons(const double *x, const double *u, double *z)
{
    memcpy(z, x, NX * sizeof *z);
    memcpy(z + NX, u, NU * sizeof *z);
$layers
}

static void next_state(const double *z, double *x_next)
{
$last
}

static void outputs(const double *z, double *y)
{
    for (int i = 0; i < NY; ++i) affine(1, READ, My + i * NZ, by + i, z, y + i);
}

void ${name}_step(const double x[NX], const double u[NU], double x_next[NX])
{
    double z[NZ];
    neurons(x, u, z);
    next_state(z, x_next);
}

void ${name}_output(const double x[NX], const double u[NU], double y[NY])
{
    double z[NZ];
    if (READ > NX + NU) neurons(x, u, z);
    else {
        memcpy(z, x, NX * sizeof *z);
        memcpy(z + NX, u, NU * sizeof *z);
    }
    outputs(z, y);
}
"""

_SIGMOID = """\
enum { N = $n, GATES = $gates };

static double sigmoid(double v) { return 0.5 + 0.5 * tanh(0.5 * v); }

"""

_GRU = """\
/* Gates (r, z), then the candidate from (u, r h). */
void ${name}_step(const double x[NX], const double u[NU], double x_next[NX])
{
    double in[NU + N], gate[GATES], candidate[N];
    memcpy(in, u, NU * sizeof *in);
    memcpy(in + NU, x, N * sizeof *in);
    affine(GATES, NU + N, Mg, bg, in, gate);
    for (int i = 0; i < GATES; ++i) gate[i] = sigmoid(gate[i]);
    for (int i = 0; i < N; ++i) in[NU + i] = gate[i] * x[i];
    affine(N, NU + N, Mn, bn, in, candidate);
    for (int i = 0; i < N; ++i) x_next[i] = (1 - gate[N + i]) * tanh(candidate[i]) + gate[N + i] * x[i];
}
"""

_LSTM = """\
/* State (h, c), gates (i, f, o, g). */
void ${name}_step(const double x[NX], const double u[NU], double x_next[NX])
{
    double in[NU + N], gate[GATES];
    memcpy(in, u, NU * sizeof *in);
    memcpy(in + NU, x, N * sizeof *in);
    affine(GATES, NU + N, Mg, bg, in, gate);
    for (int i = 0; i < N; ++i) {
        double c = sigmoid(gate[N + i]) * x[N + i] + sigmoid(gate[i]) * tanh(gate[3 * N + i]);
        x_next[N + i] = c;
        x_next[i] = sigmoid(gate[2 * N + i]) * tanh(c);
    }
}
"""

_READ = """
void ${name}_output(const double x[NX], const double u[NU], double y[NY])
{
    (void)u;
    affine(NY, N, Mx, by, x, y);
}
"""

_READ_NEXT = """
void ${name}_output(const double x[NX], const double u[NU], double y[NY])
{
    double next[NX];
    ${name}_step(x, u, next);
    affine(NY, N, Mx, by, next, y);
}
"""

_SELF_TEST = """
#ifdef ${NAME}_SELF_TEST
#include <stdio.h>

$reference

static double worse(double worst, double found, double expected)
{
    double error = fabs(found - expected) / (1 + fabs(expected));
    return error <= worst ? worst : error; /* keeps NaN */
}

int main(void)
{
    double next[NX], y[NY], worst = 0;
    for (int t = 0; t < $samples; ++t) {
        ${name}_step(test_x + t * NX, test_u + t * NU, next);
        ${name}_output(test_x + t * NX, test_u + t * NU, y);
        for (int i = 0; i < NX; ++i) worst = worse(worst, next[i], test_next[t * NX + i]);
        for (int i = 0; i < NY; ++i) worst = worse(worst, y[i], test_y[t * NY + i]);
    }
    printf("largest relative difference %.3g\\n", worst);
    return worst <= $tolerance ? 0 : 1;
}
#endif
"""
