"""What a guarantee promises and rests on: probabilities, premises, and whether a file is what its sources give."""
