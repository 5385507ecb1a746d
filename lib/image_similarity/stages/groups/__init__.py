"""neighbours -> groups: the same picture again, and what belongs together."""
