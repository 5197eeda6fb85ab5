"""Image quality over many images: limits learned from a folder, and charts by device."""
