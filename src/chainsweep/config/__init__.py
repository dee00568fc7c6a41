"""``campaign.toml`` and ``site.toml`` as typed values."""
