"""Data: the built-in world `scenes` and the user's own pictures and texts, read at random from a
`Source` or in order from shards."""
