"""What the paper's figures show, of any checkpoint: deltas over a text, their distribution, attention, words of patches, answers."""
