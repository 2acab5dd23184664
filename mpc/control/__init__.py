"""The controller: one step, its settings, and what plant operation asks of it."""
