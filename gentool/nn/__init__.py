"""Parts of networks that more than one backend uses."""
