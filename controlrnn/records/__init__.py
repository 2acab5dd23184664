"""Files: written atomically, checked before anything is built from them, signed where the origin matters."""

from controlrnn.records.archive import read_archive
from controlrnn.records.digests import canonical, digest
from controlrnn.records.record import (
    Record,
    load_one_of,
    load_record,
    read_record,
    restoring,
    save_record,
    write_record,
)
from controlrnn.records.schema import FreeArrays, Numbers, Part, Schema
from controlrnn.records.signing import new_key, sign_folder, verify_folder
from controlrnn.records.stored import Stored
from controlrnn.records.values import Count, Digest, Exactly, Flag, ListOf, Number, TableOf, Text, Value
from controlrnn.records.writing import write_atomic, write_json

__all__ = [
    "Count",
    "Digest",
    "Exactly",
    "Flag",
    "FreeArrays",
    "ListOf",
    "Number",
    "Numbers",
    "Part",
    "Record",
    "Schema",
    "Stored",
    "TableOf",
    "Text",
    "Value",
    "canonical",
    "digest",
    "load_one_of",
    "load_record",
    "new_key",
    "read_archive",
    "read_record",
    "restoring",
    "save_record",
    "sign_folder",
    "verify_folder",
    "write_atomic",
    "write_json",
    "write_record",
]
