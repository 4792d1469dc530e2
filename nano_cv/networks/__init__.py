"""Networks: normalised images go in; raw outputs come out. Pure `nn.Module`s, one file each."""
