"""What a campaign will cost."""
