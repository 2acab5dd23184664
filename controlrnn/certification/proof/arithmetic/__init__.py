"""Float64 arithmetic with proven error bounds: enclosures, double-double numbers, positive definiteness."""
