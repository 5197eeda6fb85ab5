"""STOW-RS in: what comes by HTTP is taken as what comes by C-STORE is."""
