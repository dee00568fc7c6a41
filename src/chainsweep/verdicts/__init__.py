"""The verdicts: ``converged``, or the reason why not."""
