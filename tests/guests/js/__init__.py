"""Tests of the JavaScript guest."""
