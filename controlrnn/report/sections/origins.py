"""Section on origins: digests, versions, whether proofs hold again, and how to verify what is on file."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import controlrnn
from controlrnn.certification import Certificate
from controlrnn.errors import CertificationError
from controlrnn.report.blocks import Block, Code, Listing, Section, Table, Words
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.parts import Parts

_PACKAGES = ("numpy", "scipy", "torch", "casadi", "numba")


def checked_now(parts: Parts) -> dict[str, tuple[Mark, str]]:
    """Outcome of proving each certificate again, by its name.

    Args:
        parts: What the report is made of.
    """
    return {name: _proved(one, parts) for name, one in parts.certificates.items()}


def origins_section(parts: Parts, proofs: dict[str, tuple[Mark, str]]) -> Section:
    """Section on origins: digests, files, versions, and whether proofs hold again.

    Args:
        parts: What the report is made of.
        proofs: From `checked_now`.
    """
    rows: list[list[Any]] = [[what, text, parts.files.get(what)] for what, text in _digests(parts).items()]
    rows += [[what, None, file] for what, file in parts.files.items() if what not in _digests(parts)]
    blocks: list[Block] = []
    if proofs:
        blocks.append(
            Table(
                ["certificate", "speaks of model", "made by", "proven again for this report"],
                [
                    [
                        name,
                        parts.certificates[name].system_digest[:16],
                        parts.certificates[name].method or None,
                        Marked(text, mark),
                    ]
                    for name, (mark, text) in proofs.items()
                ],
            )
        )
    if rows:
        blocks.append(Table(["part", "SHA-256 of its values", "file"], rows))
    if parts.verify:
        blocks.append(Words("To verify what is on file, without a solver:"))
        blocks.append(Code("\n".join(parts.verify)))
    elif parts.certificates:
        blocks.append(Words("To verify a certificate from its file, without a solver:"))
        blocks.append(Code(_commands(parts)))
    if parts.notes:
        blocks.append(Listing(parts.notes))
    blocks.append(Table(["made with", "version"], [[name, version] for name, version in _versions().items()]))
    return Section("Digests, versions, how to verify", blocks)


def _proved(certificate: Certificate, parts: Parts) -> tuple[Mark, str]:
    systems = [parts.system, *(m for m in parts.baselines.values())]
    systems += [entry.system for entry in getattr(parts.fit, "entries", ())]
    system = next((s for s in systems if s is not None and s.digest == certificate.system_digest), None)
    if system is None:
        return Mark.WARNING, "not tried: no model of this report has that digest"
    try:
        margin = certificate.verify(system)
    except CertificationError as error:
        return Mark.BAD, f"fails: {error}"
    return Mark.GOOD, f"holds, margin {margin:.4g}"


def _digests(parts: Parts) -> dict[str, str]:
    found: dict[str, Any] = {"model": parts.system} if parts.system is not None else {}
    found |= {f"certificate, {name}": one for name, one in parts.certificates.items()}
    found |= {"model error": parts.model_error, "tightening": parts.tightening, **parts.promises}
    made = {name: one.digest for name, one in found.items() if one is not None}
    for name, text in getattr(parts.tightening, "digests", {}).items():
        made.setdefault(f"tightening rests on: {name.replace('_', ' ')}", text)
    return made


def _commands(parts: Parts) -> str:
    lines = [
        "from controlrnn.certification import load_certificate",
        "from controlrnn.export import load_system",
        "",
        f"system = load_system({parts.files.get('model', 'model.npz')!r})",
    ]
    for name in parts.certificates:
        file = parts.files.get(f"certificate, {name}", "certificate.npz")
        lines.append(f"load_certificate({file!r}).verify(system)  # {' '.join(name.split())}")
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    found = {"controlrnn": controlrnn.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
