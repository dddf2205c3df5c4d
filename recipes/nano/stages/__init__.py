"""The stages of the nano recipe, one file a part of the model; `recipes.nano.run` puts them in order."""
