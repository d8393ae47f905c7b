"""One training step of every method, in PyTorch, as plainly as it can be written: what saddle's steps are compared with."""
