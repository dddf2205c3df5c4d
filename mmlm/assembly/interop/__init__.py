"""Models of other projects: OpenFlamingo's checkpoints, prompts and language model, peft's adapters, and downloads.

`open_flamingo` loads and writes OpenFlamingo's models, and `open_flamingo_checkpoint` reads their files;
`open_flamingo_eval` has the prompts and decoding options of its evaluation; `mosaic_gpt` has the language model MPT-1B;
`peft_adapter` reads and writes LoRA as peft does; `download` fetches files of the Hugging Face hub. Nothing is exported
here, because `mmlm.assembly.frozen` needs `mosaic_gpt`, and `open_flamingo` needs `mmlm.assembly.frozen`.
"""
