"""Pieces that two or more models share."""
