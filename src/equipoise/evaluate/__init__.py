"""Responses → numbers → one page: harm, over-refusal, Elo, plots and the report. No torch here."""
