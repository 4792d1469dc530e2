"""nano-cv: from a folder of pictures to a trained, evaluated and tracked model."""
