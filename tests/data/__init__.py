"""Tests of t5ray/data."""
