"""Towers and the dual encoder that joins them."""
