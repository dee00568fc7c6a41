"""The prediction of the cost of a campaign."""
