"""What ships with the package: the embedded model `nano` and sample media."""
