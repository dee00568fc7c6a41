"""The stages of a campaign."""
