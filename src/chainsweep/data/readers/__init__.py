"""The readers: for each format one function, from (config, source) to the columns of all data sets."""

from chainsweep.data.readers.select import read_source

__all__ = ["read_source"]
