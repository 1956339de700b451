"""How sure a number is: intervals, tests, power; pure functions of arrays, each with its source."""
