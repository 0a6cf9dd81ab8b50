"""Files and tensors: safe reading, what a file is, key maps, LoRA formats, atomic writing."""
