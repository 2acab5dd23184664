"""Bad data of every kind, and what becomes of them: a clear error, a warning with advice, or the right result."""
