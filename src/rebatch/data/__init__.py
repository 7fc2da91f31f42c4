"""Published file layouts, sets in memory, batch augmentation on the device, downloads with checksums.

Import the submodules: `catalog`, `folder` and `fetch` work without torch, and stay so because nothing is imported here.
"""
