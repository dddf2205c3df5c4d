"""What can be trained, one objective a file, all minimised by the same Trainer:

adapters   the resamplers, gated cross-attention and added rows, on pictures and recordings with texts
codes      the rows of codes and LoRA, on texts with the codes of pictures and speech
codec      a VQ codec, on media alone, with a critic of patches if asked for
decoder    a diffusion decoder on a frozen codec
distill    what alignment trains, on the distributions of a teacher
loss       any module and its loss by step, for recipes that pretrain a network
"""
