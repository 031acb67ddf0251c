"""Sweep files and the programs that run them."""
