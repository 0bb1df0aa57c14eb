"""The systems of the paper as transformers models: MGM's own classes, and original checkpoints made into native folders."""
