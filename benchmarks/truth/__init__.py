"""The truth bench: many small posteriors with exact answers, against which whole campaigns are held."""
