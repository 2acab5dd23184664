"""What keeps limits when something goes wrong: watched premises, fallbacks, recovery."""
