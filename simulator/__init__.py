"""The simulated instrument: specimens, physics, detectors, scans and faults, and real files played back."""
