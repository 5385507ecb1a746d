"""What is in a picture: classes and their parents by a classifier, and how sure it may be. Arrays in, arrays out."""
