"""Tasks: images go in; named answers come out, or losses while it trains. Plain `nn.Module`s."""
