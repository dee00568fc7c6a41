"""The files of a campaign: shards, merged posterior, catalogue, exports. All file schemas live here."""
