"""The record of one task: its attempts, its failure, its provenance."""
