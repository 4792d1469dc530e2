"""Export: a trained task goes in; a proved version in Triton's model repository comes out."""
