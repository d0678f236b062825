"""The checkpoint folder: what it holds, written so that no crash breaks it, verified when read."""
