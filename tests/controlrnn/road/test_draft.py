"""First road files: which columns are what, and how data are dealt out."""

import numpy as np
import pytest
from small_road import write_csv

from controlrnn.data import Reading
from controlrnn.data.reading.assembling import read_table
from controlrnn.errors import DataError, MissingDataError, SettingError
from controlrnn.road import draft_road
from controlrnn.road.data.guessing import guess_columns, kind_of
from controlrnn.road.data.splitting import dealt_counts, records_of, split
from controlrnn.road.file.reading import parse_road
from controlrnn.road.file.schema import Split


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("time", "time"), ("Timestamp", "time"), ("t", "time"), ("u", "input"), ("u1", "input"), ("uEst", "input"),
        ("pump_2", "input"), ("Heater power", "input"), ("y", "output"), ("yVal", "output"), ("level 3", "output"),
        ("T_out", "output"), ("room temperature", "output"), ("pump pressure", ""), ("x17", ""), ("yield", ""),
        ("uranium", ""),
    ],
)  # fmt: skip
def test_what_a_name_says(name, kind):
    assert kind_of(name) == kind


def table(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(
        f"{header}\n" + "\n".join(",".join(f"{i + j}.5" for j in range(header.count(",") + 1)) for i in range(9))
    )
    return read_table(path, Reading())


def test_columns_are_guessed_or_asked_about(tmp_path):
    found = guess_columns(table(tmp_path, "time [s],pump [V],level [m]"), (), (), None, timeless=False)
    assert (found.time, found.inputs, found.outputs, found.guessed) == ("time", ("pump",), ("level",), True)
    for header in ("time,a,b", "time,pump,b", "time,pump,pump pressure,level", "time,level"):
        with pytest.raises(DataError, match="say --inputs A,B --outputs C,D"):
            guess_columns(table(tmp_path, header), (), (), None, timeless=False)
    with pytest.raises(DataError, match="--time COLUMN, or --dt"):
        guess_columns(table(tmp_path, "u,y"), (), (), None, timeless=False)
    assert guess_columns(table(tmp_path, "u,y"), (), (), None, timeless=True).time is None
    # What is said counts, and columns that nobody names stay out.
    found = guess_columns(table(tmp_path, "stamp,a,b,c"), ("a",), ("b",), None, timeless=False)
    assert (found.inputs, found.outputs, found.guessed) == (("a",), ("b",), False)
    with pytest.raises(DataError, match="no column 'd'"):
        guess_columns(table(tmp_path, "stamp,a,b,c"), ("a",), ("d",), None, timeless=False)


@pytest.mark.parametrize(("samples", "coverage"), [(500, 0.75), (700, 0.83), (6000, 0.9)])
def test_a_draft_fits_its_data(tmp_path, samples, coverage):
    """Calibration records are long enough, promise what they can, and the text says the same as the object."""
    write_csv(tmp_path / "tank.csv", samples)
    made = draft_road([tmp_path / "tank.csv"], base=tmp_path)
    assert parse_road(made.text) == made.file
    assert made.guessed
    needed = made.file.promise.washout + made.file.control.horizon + 1
    data = split(records_of(made.file, tmp_path), made.file.split, seed=0, needed=needed)
    assert len(data.calibration) / (len(data.calibration) + 1) >= made.file.promise.coverage == coverage
    assert sum(map(len, data.train)) >= 0.4 * samples
    # Limits are where data are.
    y = np.concatenate([r.y[:, 0] for r in data.all])
    assert y.min() - 0.1 <= made.file.outputs[0].lower < made.file.outputs[0].upper <= y.max() + 0.1
    assert made.file.inputs[0].error > 0
    assert "GUESS" in made.text


def test_many_records_are_dealt_out_whole(tmp_path):
    paths = [write_csv(tmp_path / f"tank{i}.csv", 150, seed=i) for i in range(12)]
    made = draft_road(paths, base=tmp_path)
    assert made.file.split.by == "record"
    data = split(records_of(made.file, tmp_path), made.file.split, seed=1, needed=50)
    assert [len(part) for part in (data.train, data.validation, data.test, data.calibration)] == [6, 1, 1, 4]
    assert made.file.promise.coverage == 0.8
    assert all(len(r) == 150 for r in data.all)


def test_a_file_may_have_its_own_purpose(tmp_path):
    for i, name in enumerate("ab"):
        write_csv(tmp_path / f"{name}.csv", 600, seed=i)
    made = draft_road([tmp_path / "a.csv"], base=tmp_path)
    text = made.text.replace('files = ["a.csv"]', 'files = ["a.csv", { path = "b.csv", part = "test" }]')
    file = parse_road(text)
    data = split(records_of(file, tmp_path), file.split, seed=0, needed=40)
    assert len(data.test[0]) == 600
    assert sum(map(len, data.train)) < 600


def test_options_of_reading_are_given_as_in_the_file(tmp_path):
    path = write_csv(tmp_path / "tank.csv", 600)
    lines = path.read_text().splitlines()
    lines[300] = lines[300].rsplit(",", 1)[0] + ",-9999"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="-9999"):
        draft_road([path], base=tmp_path)
    made = draft_road([path], base=tmp_path, reading="missing = [-9999.0]\nlongest_gap = 5")
    assert made.file.data.reading.missing == [-9999.0]
    assert parse_road(made.text) == made.file
    assert sum(r.missing.sum() for r, _ in records_of(made.file, tmp_path)) == 1
    for text, said in (
        ("misssing = [1.0]", r"line 1.*no field 'misssing': do you mean 'missing'"),
        ("sort = true\njitter = 0.9", r"line 2, data.reading.jitter: expected a number < 0.5, got 0.9"),
        ("sort", "not valid TOML"),
    ):
        with pytest.raises(SettingError, match=said):
            draft_road([path], base=tmp_path, reading=text)


def test_rows_without_stamps(tmp_path):
    path = write_csv(tmp_path / "tank.csv", 600)
    path.write_text("\n".join(line.split(",", 1)[1] for line in path.read_text().splitlines()) + "\n")
    made = draft_road([path], base=tmp_path, dt=10.0)
    assert made.file.data.time is None
    assert made.file.data.dt == 10.0
    assert records_of(made.file, tmp_path)[0][0].dt == 10.0


def test_too_little_data_is_said(tmp_path):
    with pytest.raises(DataError, match="record for longer"):
        draft_road([write_csv(tmp_path / "tank.csv", 110)], base=tmp_path)
    with pytest.raises(MissingDataError):
        draft_road([tmp_path / "nothing.csv"])
    with pytest.raises(SettingError, match="at least one file"):
        draft_road([])
    with pytest.raises(SettingError, match="budget must be a positive number"):
        draft_road([write_csv(tmp_path / "other.csv", 600)], budget=-0.0, base=tmp_path)


def test_calibration_records_that_are_too_short_are_refused(tmp_path):
    made = draft_road([write_csv(tmp_path / "tank.csv", 600)], base=tmp_path)
    with pytest.raises(DataError, match=r"at least 400 samples.*lower split.pieces"):
        split(records_of(made.file, tmp_path), made.file.split, seed=0, needed=400)


def test_shares_of_whole_records():
    plan = Split(by="record", train=0.5, test=0.1, calibration=0.4)
    for n in range(3, 40):
        counts = dealt_counts(n, plan)
        assert sum(counts) == n
        assert counts[1] == 0
        assert min(counts[0], counts[2], counts[3]) >= 1
        assert np.abs(np.array(counts) - n * np.array(plan.shares)).max() <= 1
    with pytest.raises(DataError, match="a record for each"):
        dealt_counts(2, plan)
