"""Every kind of bad data ends as the table on the page says: none silently."""

import pytest

from experiments.bad_data import __main__ as command
from experiments.bad_data import table
from experiments.bad_data.case import Case, Ending, judge, refused, right, warned
from experiments.bad_data.table import cases, with_table


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.group}: {case.kind}")
def test_bad_data_ends_as_it_has_to(case, tmp_path):
    ended = judge(case, tmp_path)
    assert ended.as_wanted, ended


def test_there_are_many_kinds_and_each_stands_once():
    assert len(cases()) >= 60
    assert len({case.kind for case in cases()}) == len(cases())


def test_the_page_shows_the_table():
    assert with_table(table.PAGE.read_text()) == table.PAGE.read_text(), "python -m experiments.bad_data --page"


def test_a_case_that_ends_otherwise_is_seen(tmp_path):
    assert not judge(right("silent but wrong", lambda _: 1, lambda r: r == 2), tmp_path).as_wanted
    assert not judge(warned("no warning", lambda _: 1, lambda r: r == 1, "words"), tmp_path).as_wanted
    assert not judge(refused("no error", lambda _: 1, "words"), tmp_path).as_wanted
    assert judge(Case("no check", lambda _: 1, Ending.RIGHT), tmp_path).as_wanted is False


def test_the_command_counts_and_writes(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(table.PAGE.read_text())
    monkeypatch.setattr(command, "PAGE", page)
    one = right("one", lambda _: 1, lambda r: r == 1)
    monkeypatch.setattr(command, "cases", lambda: [one, refused("two", lambda _: 1, "words")])
    assert command.main(["--page"]) == 1
    assert "2 cases, 1 of them" in capsys.readouterr().out
    assert page.read_text() == table.PAGE.read_text()
