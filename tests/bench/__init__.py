"""Measurements: `make bench` prints ratios of one run, beside what people would use instead."""
