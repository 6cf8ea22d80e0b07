"""Specimen files that come with the simulator."""
