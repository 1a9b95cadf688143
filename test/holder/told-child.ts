// Owns: a process in the holder's place that tells how it was started.
process.on('disconnect', () => process.exit());
process.send?.({ flags: process.execArgv, arenas: process.env['MALLOC_ARENA_MAX'] ?? null });
