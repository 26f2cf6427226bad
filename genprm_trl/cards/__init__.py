"""Model cards: their text, tables and plots."""
