"""Steps that builds of every kind share: the tree while it grows, caches, first boot, transfers."""
