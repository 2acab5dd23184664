"""Certificates, one claim a file: what is claimed, how it is found, stored and verified."""
