"""What all models build on: settings, the interface `Objective`, optimizers, training, checkpoints and processes."""
