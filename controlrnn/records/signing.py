"""Signatures of folders: a detached Ed25519 signature over all files (RFC 8032), by the library `cryptography`.

Records carry checksums, which anybody can compute. Where files pass through other hands, the author of a certificate
signs the folder with a private key, and the user who runs the controller verifies it with the public key, which must
come by another way. ``SIGNATURE.json`` in the folder names every file with size and SHA-256 and holds the signature
over that list. A signature does not prove what the files claim: certificates and tightenings have their `verify`.

The folder is compared at the time of the call: load files from where nobody else can write, or from a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlrnn.errors import SettingError, SignatureError
from controlrnn.records.writing import storage, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "SIGNATURE.json"
_CONTEXT = b"controlrnn folder signature 1\n"  # so that the key's signatures of other texts cannot pass for this
_MOST = 2**24  # bytes of the list of files
_FIELDS = {"format", "algorithm", "public_key", "note", "files", "signature"}


def new_key(path: str | os.PathLike[str]) -> str:
    """Make a key pair: write the private key to a new file that only its owner can read.

    Args:
        path: Target; keep it secret. An existing file is never overwritten.

    Returns:
        The public key in 64 hexadecimal digits, for everybody who has to verify.

    Raises:
        SettingError: The file exists, or `cryptography` is not installed.
        StorageError: The file cannot be written.
    """
    serialization, ed25519 = _library()[:2]
    key = ed25519.Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with storage("write", path):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise SettingError(f"{path} exists, and a key is never overwritten: choose another name") from error
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    return _public(key)


def sign_folder(folder: str | os.PathLike[str], key: str | os.PathLike[str], *, note: str = "") -> Path:
    """Sign all files in a folder and below as they are now.

    Args:
        folder: The folder.
        key: The private key's file, from `new_key`; outside of the folder.
        note: Text that is stored and signed with it, e.g. what the folder is for.

    Returns:
        The path of the signature, ``SIGNATURE.json`` in the folder; an earlier one is replaced.

    Raises:
        SettingError: The key is not an Ed25519 key or lies inside the folder, or `cryptography` is not installed.
        SignatureError: The folder holds links or devices, whose content the signature would not cover.
        StorageError: A file cannot be read, or the signature not be written.
    """
    serialization, ed25519, _ = _library()
    root = Path(folder)
    if Path(key).resolve().is_relative_to(root.resolve()):
        raise SettingError("the private key must not lie in the folder that is passed on: keep it elsewhere")
    with storage("read", key):
        content = Path(key).read_bytes()
    try:
        private = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise SettingError(f"{key} must hold an Ed25519 private key without password: use new_key") from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise SettingError(f"{key} must hold an Ed25519 key, got {type(private).__name__}: use new_key")
    listed: dict[str, Any] = {
        "format": 1,
        "algorithm": "Ed25519",
        "public_key": _public(private),
        "note": note,
        "files": _files(root),
    }
    return write_json(root / SIGNATURE, listed | {"signature": private.sign(_signed(listed)).hex()})


def verify_folder(folder: str | os.PathLike[str], public_key: str) -> tuple[str, ...]:
    """Verify that a folder holds exactly the files that the owner of a key signed, unchanged.

    Args:
        folder: The folder.
        public_key: From `new_key`, in 64 hexadecimal digits; from somebody trusted, not from the folder.

    Returns:
        The names of the files, relative to the folder.

    Raises:
        SignatureError: Not signed, signed by another key, or a file is missing, altered or not part of what was signed.
        SettingError: ``public_key`` is not a public key, or `cryptography` is not installed.
        StorageError: A file cannot be read.
    """
    _, ed25519, invalid = _library()
    root, listed = Path(folder), _listed(Path(folder) / SIGNATURE)
    try:
        trusted = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    except (ValueError, TypeError) as error:
        raise SettingError(f"public_key must be 64 hexadecimal digits, got {public_key!r}: see new_key") from error
    signature = listed.pop("signature")
    try:
        trusted.verify(bytes.fromhex(signature), _signed(listed))
    except (invalid, ValueError) as error:
        other = str(listed["public_key"])[:12]
        raise SignatureError(
            f"{root} was not signed by {public_key[:12]} (it names {other}), or its list was altered: do not use it"
        ) from error
    expected, found = listed["files"], _files(root)
    for name in sorted({*expected, *found}):
        if name not in found:
            raise SignatureError(f"{root / name} was signed, but is missing")
        if name not in expected:
            raise SignatureError(f"{root / name} is not part of what was signed: remove it, or have the folder signed")
        if expected[name] != found[name]:
            raise SignatureError(f"{root / name} was altered after it was signed: do not use it")
    return tuple(sorted(expected))


def _listed(path: Path) -> dict[str, Any]:
    """Read the list of files from a signature, after checking that it has all fields."""
    try:
        with storage("read", path), path.open("rb") as stream:
            text = stream.read(_MOST + 1)
    except FileNotFoundError as error:
        raise SignatureError(f"{path.parent} is not signed: there is no {SIGNATURE}") from error
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"{path} is no list of signed files ({type(error).__name__})") from error
    right = isinstance(listed, dict) and listed.keys() == _FIELDS and isinstance(listed["signature"], str)
    if len(text) > _MOST or not right or listed["format"] != 1 or not isinstance(listed["files"], dict):
        raise SignatureError(f"{path} is no list of signed files, or of a newer release: update controlrnn")
    return dict(listed)


def _files(root: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder, by its name relative to the folder."""
    found: dict[str, dict[str, Any]] = {}
    for path in _walk(root):
        name = path.relative_to(root).as_posix()
        if name == SIGNATURE:
            continue
        sha, size = hashlib.sha256(), 0
        with storage("read", path), path.open("rb") as stream:
            while block := stream.read(2**20):
                sha.update(block)
                size += len(block)
        found[name] = {"size": size, "sha256": sha.hexdigest()}
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the plain files in a folder and below; links and devices are refused."""
    with storage("read", folder), os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path))
        elif stat.S_ISREG(mode):
            yield Path(entry.path)
        else:
            raise SignatureError(f"{entry.path} is a link or a device: a signature covers plain files only")


def _signed(listed: dict[str, Any]) -> bytes:
    """Bytes that the signature covers."""
    return _CONTEXT + json.dumps(listed, sort_keys=True).encode()


def _public(key: Ed25519PrivateKey) -> str:
    """Public key of a private one, in 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def _library() -> tuple[Any, Any, type[Exception]]:
    """Import what is used of `cryptography`, with advice where it is missing."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise SettingError("signatures need the library cryptography: pip install 'controlrnn[sign]'") from error
    return serialization, ed25519, InvalidSignature
