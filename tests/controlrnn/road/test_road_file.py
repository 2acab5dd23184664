"""Road files: faults are named with line and field, and a written file says the same when it is read."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlrnn.errors import MissingDataError, SettingError, StorageError
from controlrnn.road import Road, RoadFile, read_road, verify_folder
from controlrnn.road.file.lines import key_lines, line_of
from controlrnn.road.file.reading import parse_road
from controlrnn.road.file.writing import commented, toml

GOOD = """\
seed = 0

[data]
files = ["a.csv", { path = "b.csv", part = "test" }]
time = "time"

[[inputs]]
name = "pump"
lower = 0.0
upper = 10.0

[[inputs]]
name = "rain"
lower = 0.0
upper = 2.0
role = "measured"

[[outputs]]
name = "level"
upper = 20.0
reference = [10.0, 20.0]

[split]
train = 0.6
calibration = 0.4

[observer]

[promise]
washout = 20

[control]
horizon = 10
control_horizon = 4
"""


def fault(old, new):
    assert GOOD.count(old) == 1, old
    with pytest.raises(SettingError) as caught:
        parse_road(GOOD.replace(old, new), "road.toml")
    return str(caught.value)


def test_a_good_file_is_read():
    file = parse_road(GOOD)
    assert [s.part for s in file.data.sources] == [None, "test"]
    assert file.inputs[1].role == "measured"
    assert file.outputs[0].lower is None
    assert file.identify.budget == 180


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("upper = 10.0", 'upper = "ten"', ["line 10, inputs[0].upper", "a number", "'ten'", "without quotes"]),
        ("upper = 10.0", "upper = nan", ["line 10", "finite number"]),
        ("upper = 10.0", "upper = -1.0", ["line 7, inputs[0]", "lower < upper", "0 and -1", "swap"]),
        ("upper = 10.0", "uper = 10.0", ["line 10", "no field 'uper'", "do you mean 'upper'", "lacks 'upper'"]),
        ("upper = 10.0\n", "", ["line 7", "inputs[0] lacks 'upper'", "largest value", "add it"]),
        ('role = "measured"', 'role = "seen"', ["line 16, inputs[1].role", "'manipulated' or 'measured'", "'seen'"]),
        ('name = "rain"', 'name = "level"', ["'level' twice"]),
        ('name = "pump"', "name = 3", ["line 8", "text in", "got 3"]),
        ("train = 0.6", "train = 0.7", ["line 23, split", "add up to 1", "1.1"]),
        ("train = 0.6", "train = 1.6", ["line 24, split.train", "<= 1", "1.6"]),
        ("control_horizon = 4", "control_horizon = 40", ["control_horizon <= horizon = 10, got 40"]),
        ("horizon = 10\n", "horizon = 10.5\n", ["control.horizon", "whole number", "10.5"]),
        ("washout = 20", "washout = 0", ["line 30, promise.washout", ">= 1", "got 0"]),
        ("reference = [10.0, 20.0]", "reference = []", ["line 21, outputs[0].reference", "at least 1"]),
        ("reference = [10.0, 20.0]", 'reference = [10.0, "top"]', ["line 21", "reference[1]", "'top'"]),
        ('time = "time"\n', "", ["line 3, data", "got neither"]),
        ("[observer]", "[observers]", ["no field 'observers'", "do you mean 'observer'"]),
        ("seed = 0", "seed = true", ["line 1, seed", "whole number", "True"]),
        ("seed = 0", "seed == 0", ["not valid TOML", "line 1"]),
        ('part = "test"', 'part = "tests"', ["line 4", "'test'"]),
    ],
)
def test_a_fault_is_named_with_line_and_field(old, new, said):
    text = fault(old, new)
    for word in said:
        assert word in text, text
    assert "pydantic" not in text


def test_several_faults_are_named_at_once():
    with pytest.raises(SettingError) as caught:
        parse_road(GOOD.replace("upper = 10.0", "upper = true").replace("washout = 20", "washout = -2"))
    assert len(str(caught.value).splitlines()) == 2


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(MissingDataError, match="controlrnn init"):
        read_road(tmp_path / "road.toml")
    (tmp_path / "road.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(SettingError, match="UTF-8"):
        read_road(tmp_path / "road.toml")


def test_windows_line_ends_are_read(tmp_path):
    (tmp_path / "road.toml").write_bytes(GOOD.replace("\n", "\r\n").encode())
    assert read_road(tmp_path / "road.toml") == parse_road(GOOD)


def test_a_written_file_says_the_same():
    file = parse_road(GOOD)
    text = commented(file, {"pump.lower": "as it is"}, head="a\n\nb")
    assert parse_road(text) == file
    assert text.startswith("# a\n#\n# b\n")
    assert "lower = 0.0                                   # as it is" in text
    # Every field stands there with a comment, those that are left out as comments.
    for name in RoadFile.model_fields:
        assert name in text
    assert "# confidence = " in text
    assert all("#" in line for line in text.splitlines() if line and not line.startswith("["))


@given(
    st.recursive(
        st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
        st.lists,
        max_leaves=6,
    )
)
def test_values_are_written_as_toml(value):
    def lists(v):
        return [lists(x) for x in v] if isinstance(v, (list, tuple)) else v

    try:
        toml(value).encode()
    except UnicodeEncodeError:
        return  # half a character: no file can hold it
    assert tomllib.loads(f"a = {toml(value)}")["a"] == lists(value)


def test_lines_of_keys():
    text = (
        'a = 1\n"b.c" = """\n[no]\n= x\n"""\n# [not.this]\n[t]\nx = [\n  1, # ]\n  "]",\n]\ny = 2\n'
        "[[l]]\nz = { q = 1 }\n[[l]]\nz.w = 3\n[l.inner]\nv = 'k = 1'\n"
    )
    tomllib.loads(text)
    assert key_lines(text) == {
        ("a",): 1,
        ("b.c",): 2,
        ("t",): 7,
        ("t", "x"): 8,
        ("t", "y"): 12,
        ("l", 0): 13,
        ("l", 0, "z"): 14,
        ("l", 1): 15,
        ("l", 1, "z", "w"): 16,
        ("l", 1, "inner"): 17,
        ("l", 1, "inner", "v"): 18,
    }
    assert line_of(key_lines(text), ("l", 0, "z", "q")) == 14
    assert line_of(key_lines(text), ("nowhere",)) is None


@pytest.mark.parametrize("what", [Road, read_road, verify_folder])
def test_names_too_long_for_a_file_are_refused(what):
    with pytest.raises(StorageError, match=r"cannot read x{100}"):
        what("x" * 5000)
