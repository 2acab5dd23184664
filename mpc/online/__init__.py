"""Controllers beside a plant: what connects a control step to what measures and acts."""
