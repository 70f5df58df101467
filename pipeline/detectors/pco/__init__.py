"""PCO cameras: files that Camware or the recorder writes on a Windows PC."""
