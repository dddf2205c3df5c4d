"""Forms in which language models are published: each becomes a causal language model of transformers.

`named`: a model by its name, whatever form lies there. `gguf`: files of llama.cpp, with `gguf_tokenizer`. `adapter`:
folders of peft. Nothing is exported here.
"""
