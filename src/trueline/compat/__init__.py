"""Other packages' interfaces over Trueline's own parts, one package per original."""
