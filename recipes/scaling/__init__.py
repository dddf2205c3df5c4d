"""How the loss falls with the size of the adapters, the data and the steps: a grid of runs, and the law fitted to it."""
