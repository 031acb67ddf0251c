"""The models of the suite: models/registry.py names them."""
