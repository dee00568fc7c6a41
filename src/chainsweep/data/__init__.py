"""Data sets: from their sources to one frozen file, and from that file to padded blocks."""
