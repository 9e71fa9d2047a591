"""Root filesystems: built, cloned, pulled, unpacked, packed, and the pool made for them."""
