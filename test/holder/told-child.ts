// Owns: a process in the holder's place that tells how it was started.
process.on('disconnect', () => process.exit());
const { MALLOC_ARENA_MAX: arenas = null, UV_THREADPOOL_SIZE: threads = null } = process.env;
process.send?.({ flags: process.execArgv, arenas, threads });
