"""Second-order optimisers."""
