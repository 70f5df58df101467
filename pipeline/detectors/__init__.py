"""Detector adapters: one module or folder for each kind of instrument."""
