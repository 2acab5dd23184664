"""Study of the robust RNN of 2020: convex sets of stable networks on four carts, against networks without guarantee."""
