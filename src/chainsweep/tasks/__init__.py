"""One task: its attempt, its failure, its provenance."""
