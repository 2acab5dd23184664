"""Building blocks that several parameterisations share."""
