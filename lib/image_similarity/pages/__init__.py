"""Shared by the gallery and reports: the folder of a site, and the texts of an image."""
