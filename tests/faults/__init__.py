"""What goes wrong, as scripts that do it many times; tests/__init__.py says what else is in the tier `faults`."""
