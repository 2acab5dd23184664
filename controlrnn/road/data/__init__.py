"""Data of a road: guesses at columns, the first road file, and what each sample is for."""
