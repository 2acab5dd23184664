"""How to find the state of a recurrent model before it predicts: what every way costs the controller."""
