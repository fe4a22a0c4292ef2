"""Files → records: every data format the stages read. No torch here."""
