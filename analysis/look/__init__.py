"""A closer look at one trained model."""
