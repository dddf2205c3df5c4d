"""How the loss falls with the size of adapters, with data and with steps: a grid of runs, and the law of them."""
