"""What each stage of a campaign does."""
