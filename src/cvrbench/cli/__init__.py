"""The command line: parse, call one function, print. No decisions are made here."""
