"""The folder of a campaign: its paths, its freezing, its token."""
