"""One thread for every test and every process that a test starts.

Toy models gain nothing from more, on a shared machine they lose much, and sums that are split over threads round differently:
equality to 1e-6 is a statement about the arithmetic, not about how it was split.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
