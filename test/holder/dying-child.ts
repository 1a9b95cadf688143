// Owns: a holder process for tests that dies as soon as it starts.
process.exit(3);
