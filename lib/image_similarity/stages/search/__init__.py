"""Pictures from outside against a collection: those that look most like each, and whether it is there already."""
