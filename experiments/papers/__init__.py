"""The papers' own studies: every claim a row with the published value beside ours, decided by data or not at all."""
