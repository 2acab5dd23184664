"""Files that were damaged, or written by an adversary: over all kinds of records, none may do anything unexpected."""
