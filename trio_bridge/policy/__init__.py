"""Decisions about time and scarcity as plain functions: no Trio, no driver, no own clock."""
