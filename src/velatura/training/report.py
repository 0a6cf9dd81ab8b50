def write_report(setup, folder):
    pass
