"""PerkinElmer and Varex flat panels: files that QXRD or XIS write on a Windows PC."""
