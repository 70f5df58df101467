"""The writing side, piece by piece: drafts, claims, the window, the spool."""
