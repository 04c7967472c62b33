"""Whether pictures, or what is said of them, are still as they were: drift between two sets."""
