"""Text from data stays text in C sources: promises, names and file names cannot end a comment or a directive."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from c_loops import network
from hypothesis import given
from hypothesis import strategies as st
from mpc_networks import signals

from controlrnn.errors import DataError, SettingError
from controlrnn.export import to_c
from controlrnn.export.c_code import comment
from experiments.bench_mpc.c_code import compiler
from mpc import Predictor, RunningOn, TightenedMPC, Tracking, controller_to_c, no_tightening

CC = compiler()
CODE = "int injected(void) { return 1; }"
HOSTILE = [
    f"*/ {CODE} /*",
    f"*\\\n/ {CODE} /*",
    f"*\\\r\n/ {CODE} /*",
    f"*??/\n/ {CODE} /*",
    f"*\\ \n/\n{CODE}\n/*",
    f"*\u2028/ {CODE} /*",
    f"\n#define double {CODE}\n",
    f"\r#include </etc/passwd>\r{CODE}",
    f"*\x00/ {CODE} /*",
    f"\x0c\x0b*\x08/{CODE}\x1b[2J",
    "\ud800 half a character",
    f"$name ${{NAME}} $$ *{'/'} {CODE}",
    f"//{CODE}\\",
    '" ; ' + CODE + ' "',
    "é 漢 \U0001f600 %s %n {0}",
    "x" * 100_000 + f"*/ {CODE}",
]


def controller(text: str) -> TightenedMPC:
    system = network(1)
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 9.0))
    tightening = replace(no_tightening(system.digest, 6, 2), promise=text)
    return TightenedMPC(
        predictor, RunningOn(predictor, 2), tightening, Tracking(output_weight=1.0, input_move_weight=0.1)
    )


@pytest.mark.skipif(CC is None, reason="no C compiler (cc or gcc) on the path")
@pytest.mark.parametrize("standard", ["-std=c99", "-std=gnu17"])
def test_no_text_of_a_tightening_becomes_code(standard, tmp_path):
    strict = [standard, "-trigraphs", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    made = controller(HOSTILE[0])
    tightening = replace(made.tightening)
    for i, text in enumerate(HOSTILE):
        with pytest.raises(DataError, match="digests"):
            replace(tightening, digests={"system": 64 * "0", text: text})
        for name, value in (("promise", text), ("digests", {"system": made.predictor.system.digest, text: text})):
            object.__setattr__(made.tightening, name, value)  # past all checks
        source, header = controller_to_c(made, tmp_path / f"c{i}.c")
        assert header.read_bytes().isascii()
        seen = subprocess.run([CC, *strict, "-E", "-P", header], capture_output=True, text=True, check=True).stdout
        assert "injected" not in seen, repr(text[:40])
        if i % 5 == 0:
            subprocess.run([CC, *strict, "-c", source, "-o", tmp_path / "c.o"], check=True)
            assert b"injected" not in (tmp_path / "c.o").read_bytes()


@given(st.text())
def test_nothing_in_a_comment_means_anything_to_c(text):
    written = f" {comment(text)} "
    assert written.isascii()
    assert written.isprintable()
    assert not set(written) & set("*?\\")
    assert comment(text) == text or "{U+" in written


def test_plain_text_is_left_as_it_is():
    text = "with probability >= 0.9, a new trajectory (of length 100) stays inside; see a/b #1 & 'c' \"d\" 50 %"
    assert comment(text) == text
    assert comment("a*b") == "a{U+002A}b"
    assert comment("x" * 30, 10) == "x" * 10 + "... (20 more characters)"


@pytest.mark.parametrize("file", ['a".c', "a\n.c", "a\\.c", "é.c", "a*.c", "<a>.c", "$a.c", "-a.c"])
def test_a_file_name_that_an_include_cannot_spell_is_refused(file, tmp_path):
    with pytest.raises(SettingError, match="file's name"):
        to_c(network(1), tmp_path / file, name="m")
    with pytest.raises(SettingError, match="file's name"):
        controller_to_c(controller("x"), tmp_path / file, name="m")


@pytest.mark.parametrize("name", ["", "1a", "a b", "a;", "a\n", "é", "x" * 300, "_a"])
def test_a_name_that_is_no_identifier_is_refused(name, tmp_path):
    with pytest.raises(SettingError, match="C identifier"):
        to_c(network(1), tmp_path / "m.c", name=name)


def test_numbers_reach_the_source_as_numbers(tmp_path):
    class Talkative(float):
        def __repr__(self):
            return f"1; {CODE}"

    system = replace(network(1), dt=Talkative(0.5))
    source, header = to_c(system, tmp_path / "m.c")
    assert "injected" not in source.read_text() + header.read_text()
    assert "#define M_DT 0.5\n" in header.read_text()
    assert isinstance(replace(network(1), dt=np.float32(0.5)).dt, float)
