"""Training on labelled scans: recipes as data, one Lightning module, runs that go on where they stopped."""
