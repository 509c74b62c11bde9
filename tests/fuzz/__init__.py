"""Fuzz: hostile bytes for everything that reads bytes.

A seed makes one input for one target, always the same.  An input must end in what the room's own
words allow: a value that is sound, or an error that says what to do next; within 50 ms of
processor time and 16 MiB, and without an order.  `python -m fuzz --help` runs it by hand.
"""
