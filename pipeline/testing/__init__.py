"""What tests of lichtstrom and of its plugins share."""
