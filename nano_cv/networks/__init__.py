"""Networks: pure `nn.Module`s that know torch and nothing else; one file each."""
