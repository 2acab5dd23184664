"""Signatures: a folder is just what was signed by the key that is trusted, or refused."""

import json
import os
import shutil
import stat

import pytest

from controlrnn.errors import SettingError, SignatureError
from controlrnn.records import new_key, sign_folder, verify_folder
from controlrnn.records.signing import SIGNATURE


@pytest.fixture
def key(tmp_path):
    return tmp_path / "key.pem"


@pytest.fixture
def public(key):
    return new_key(key)


@pytest.fixture
def folder(tmp_path, key, public):
    root = tmp_path / "folder"
    (root / "deep").mkdir(parents=True)
    (root / "model.npz").write_bytes(b"model")
    (root / "deep" / "certificate.npz").write_bytes(b"proof")
    (root / "empty").write_bytes(b"")
    sign_folder(root, key, note="for the tanks")
    return root


def test_a_signed_folder_is_verified_also_elsewhere(folder, public, tmp_path):
    names = ("deep/certificate.npz", "empty", "model.npz")
    assert verify_folder(folder, public) == names
    shutil.copytree(folder, tmp_path / "copy")
    assert verify_folder(tmp_path / "copy", public) == names
    assert json.loads((folder / SIGNATURE).read_text())["note"] == "for the tanks"


def test_the_private_key_is_its_owners_alone_and_never_overwritten(key, public, folder):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(public) == 64
    with pytest.raises(SettingError, match="never overwritten"):
        new_key(key)
    shutil.copy(key, folder / "key.pem")
    with pytest.raises(SettingError, match="must not lie in the folder"):
        sign_folder(folder, folder / "key.pem")


def alterations():
    yield "altered", lambda f: (f / "model.npz").write_bytes(b"Model")
    yield "altered", lambda f: (f / "empty").write_bytes(b"x")
    yield "missing", lambda f: (f / "deep" / "certificate.npz").unlink()
    yield "not part", lambda f: (f / "deep" / "more").write_bytes(b"")
    yield "not part", lambda f: (f / ".hidden").write_bytes(b"")
    yield "not part", lambda f: (f / "deep" / SIGNATURE).write_bytes(b"")
    yield "missing|not part", lambda f: (f / "model.npz").rename(f / "model2.npz")
    yield "link or a device", lambda f: (f / "link").symlink_to(f / "model.npz")
    yield "link or a device", lambda f: os.mkfifo(f / "pipe")
    yield "not signed", lambda f: (f / SIGNATURE).unlink()
    yield "no list", lambda f: (f / SIGNATURE).write_bytes(b"{}")
    yield "no list", lambda f: (f / SIGNATURE).write_bytes(b"\xff\x00")
    yield "no list", lambda f: (f / SIGNATURE).write_text("[" * 100_000)


@pytest.mark.parametrize(("match", "change"), list(alterations()))
def test_anything_else_is_refused(folder, public, match, change):
    change(folder)
    with pytest.raises(SignatureError, match=match):
        verify_folder(folder, public)


@pytest.mark.parametrize("field", ["note", "files", "public_key", "signature", "algorithm"])
def test_an_edited_list_is_refused(folder, public, field):
    listed = json.loads((folder / SIGNATURE).read_text())
    changed = {"files": {n: f for n, f in listed["files"].items() if n != "empty"}, "signature": "00" * 64}
    (folder / SIGNATURE).write_text(json.dumps(listed | {field: changed.get(field, "other")}))
    with pytest.raises(SignatureError, match="was not signed by"):
        verify_folder(folder, public)


def test_another_keys_signature_is_refused_though_it_is_right(folder, public, tmp_path):
    other = new_key(tmp_path / "other.pem")
    sign_folder(folder, tmp_path / "other.pem")
    assert verify_folder(folder, other)
    with pytest.raises(SignatureError, match="was not signed by"):
        verify_folder(folder, public)


def test_what_is_no_key_is_refused(folder, tmp_path):
    for bad in ("", "00", "g" * 64, None):
        with pytest.raises(SettingError, match="public_key"):
            verify_folder(folder, bad)
    (tmp_path / "none.pem").write_bytes(b"no key")
    with pytest.raises(SettingError, match="Ed25519 private key"):
        sign_folder(folder, tmp_path / "none.pem")
    with pytest.raises(FileNotFoundError):
        sign_folder(folder, tmp_path / "absent.pem")
