"""What records say of a plant and of themselves before any model: excitation, faulty readings, dynamics, advice."""
