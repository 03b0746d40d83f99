"""PORTAL mode: how requests get to the gateway, and how often they may."""
