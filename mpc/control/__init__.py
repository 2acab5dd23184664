"""The controller: its step, its settings, and operations such as saving and restoring its state."""
