"""Damaged and forged files of all kinds of records: each must load rightly or be refused with a clear error."""
