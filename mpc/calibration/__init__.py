"""Bounds from records: prediction residuals, conformal model errors, operating regions, sensor checks."""
