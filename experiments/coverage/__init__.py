"""Realised coverage of statistical promises, where they are made and where their premises are broken."""
