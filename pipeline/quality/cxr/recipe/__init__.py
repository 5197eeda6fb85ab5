"""How the weights of the network for chest radiographs come to be; see ``CARD.md``."""
