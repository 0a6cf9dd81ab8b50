def training_metadata(setup, step, trainables):
    return {}
