"""Datasets, named in `data.datasets`, and what feeds them to the device; imports nothing, for torch takes a second."""
