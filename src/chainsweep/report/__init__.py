"""Figures and the HTML report: plain arrays and tables in, files out."""
