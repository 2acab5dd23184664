"""Compiled code on disk is forgotten with any change of the sources."""

from controlrnn.kernels.compiled.cache import HERE, forget_stale


def package(folder):
    (folder / "inner" / "__pycache__").mkdir(parents=True)
    (folder / "caller.py").write_text("1")
    (folder / "inner" / "called.py").write_text("2")
    return folder / "inner" / "__pycache__" / "caller.run-1.py311.nbi"


def test_a_change_of_any_file_forgets_what_was_compiled(tmp_path):
    index = package(tmp_path)
    index.write_text("of sources that nobody knows")
    assert forget_stale(tmp_path)
    assert not index.exists()
    index.write_text("of these sources")
    assert not forget_stale(tmp_path)
    assert index.exists()
    (tmp_path / "inner" / "called.py").write_text("3")
    assert forget_stale(tmp_path)
    assert not index.exists()


def test_what_is_in_use_is_of_the_present_sources():
    assert HERE.name == "kernels"
    assert not forget_stale()


def test_a_folder_that_cannot_be_written_to_is_left_alone(tmp_path, monkeypatch):
    package(tmp_path)

    def refused(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("pathlib.Path.write_text", refused)
    assert forget_stale(tmp_path)
