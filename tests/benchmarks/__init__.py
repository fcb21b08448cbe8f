"""Measurements, each a script that prints numbers; with --quick all of it as small as can be, to show that it runs."""
