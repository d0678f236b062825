"""Data: the built-in world `scenes` and the user's own images, behind one `Source`."""
