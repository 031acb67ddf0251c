"""Looking at runs and comparing them: programs (`python -m analysis.X`) above, libraries in the four rooms below."""
