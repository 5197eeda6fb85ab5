"""Chest CT without trained weights: lungs, opacities, their volumes and the quality of the images."""
