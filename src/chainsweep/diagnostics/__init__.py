"""Arrays in, arrays out: is a chain, an ensemble or a set of weighted draws to be trusted?"""
