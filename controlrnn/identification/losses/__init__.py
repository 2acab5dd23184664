"""What training minimises: simulation errors, noise bounds, regularisers."""
