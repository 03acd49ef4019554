"""One run: step, epoch, checkpoints, records."""
