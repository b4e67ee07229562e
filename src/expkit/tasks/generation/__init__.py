"""The parts of `Sampling`: sample a batch of runs, score and select pictures, write each run."""
