"""Many runs and sweeps, read back from folders or from W&B."""
