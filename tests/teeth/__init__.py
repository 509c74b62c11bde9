"""Teeth: does a rig find a bug that is there?

Each plant is a line of the product changed for the worse.  A copy of the package with that one
change runs under the rig that must find it, in a process of its own.  A plant that no rig finds
is a fault of the rig.
"""
