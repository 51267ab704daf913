"""Signed statements about results, and their verification without the service."""
