"""The one room that says ``converged``, or why not."""
