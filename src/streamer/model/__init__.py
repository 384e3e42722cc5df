"""The transformer and its sparse autoencoders: loading them, and running text through them."""
