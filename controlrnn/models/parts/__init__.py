"""What parameterisations share."""
