"""What the gallery and reports share: the folder of a site, and what is said of an image."""
