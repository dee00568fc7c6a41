"""A user model as the functions that every engine needs."""
