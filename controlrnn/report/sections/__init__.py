"""Sections of a report, one a file: each makes its part of the page of what is there, or nothing."""
