"""Groups of images: which are the same picture again, which belong together, and lists to clean by."""
