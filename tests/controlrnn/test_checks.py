"""Argument checks speak with one voice, whatever they are given."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from controlrnn import checks, errors
from controlrnn.errors import ControlRnnError, DataError, SettingError, ShapeError
from controlrnn.typed import typed


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.zeros(3), ShapeError, r"must have shape \(T, 2\), got \(3,\)"),
        (np.zeros((4, 3)), ShapeError, r"got \(4, 3\)"),
        ([[1.0, np.nan]], DataError, r"first at \(0, 1\)"),
        ([[1.0, np.inf]], DataError, "1 NaN or infinite"),
        ([["a", "b"]], DataError, "array of numbers"),
        ([[1.0, 2.0], [3.0]], DataError, "array of numbers"),
        (None, ControlRnnError, "u"),
    ],
)
def test_as_array_refuses(value, error, words):
    with pytest.raises(error, match=words):
        checks.as_array("u", value, ("T", 2))


def test_as_array_accepts_and_converts():
    array = checks.as_array("u", [[1, 2]], ("T", 2))
    assert array.dtype == np.float64
    assert np.isnan(checks.as_array("u", [np.nan], ("n",), finite=False)).all()
    with pytest.raises(ShapeError, match=r"use u\[:, None\]"):
        checks.as_array("u", [1.0], ("T", "n"))


def test_read_only_copies():
    source = np.ones(3, np.float32)
    copy = checks.read_only(source)
    source[0] = 5
    assert copy.dtype == np.float64
    assert copy[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        copy[0] = 2


@pytest.mark.parametrize("value", [0, 0.0, -1, np.nan, np.inf, -np.inf, None, "x", [1, 2]])
def test_positive_refuses(value):
    with pytest.raises(SettingError, match="dt must be"):
        checks.positive("dt", value)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_positive_accepts(value):
    assert checks.positive("dt", value) == value


@pytest.mark.parametrize("value", [0, -3, 2.5, True, np.nan, np.inf, None, "x", [1]])
def test_count_refuses(value):
    with pytest.raises(SettingError, match="nx must be a whole number >= 1"):
        checks.count("nx", value)


def test_count_accepts_whole_numbers():
    assert [checks.count("n", v) for v in (3, 3.0, np.int64(3))] == [3, 3, 3]
    assert checks.count("n", 0, least=0) == 0
    assert checks.positive("r", 0, zero=True) == 0


@pytest.mark.parametrize("value", [1e300, 10**300, -(2**70), np.inf, 2.5, "x", None])
def test_whole_numbers_of_any_sign_are_refused_in_short_words(value):
    @typed()
    def shifted(by: "int") -> "int":
        return by

    assert shifted(-(2**40)) == -(2**40)
    with pytest.raises(SettingError, match=r"^by must be a whole number of at most 64 bits, got "):
        shifted(value)


def test_every_error_derives_from_the_base_and_from_a_builtin():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, ControlRnnError)]
    assert len(found) > 5
    for error in found:
        if error is not ControlRnnError:
            assert any(base.__module__ == "builtins" and base is not Exception for base in error.__mro__[1:-3])
    error = errors.CertificationError("no", status="infeasible", margin=-1.0)
    assert (error.status, error.margin, str(error)) == ("infeasible", -1.0, "no")
