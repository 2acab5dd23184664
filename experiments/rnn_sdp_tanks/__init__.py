"""RNN-SDP's study on three tanks, with the initial state's share apart from the inputs'."""
