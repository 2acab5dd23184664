"""One claim a file: how it is searched for, stored and verified."""
