"""From a file or table of measurements to arrays on one time grid; numpy only until a format needs more."""
