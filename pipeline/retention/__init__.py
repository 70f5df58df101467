"""One life for record and object: policies, trimming, expiry, garbage, erasing with a receipt."""
