"""What every model builds on: settings, the objective's interface, optimizers, checkpoints, processes."""
