// Owns: how Node is started for the two processes of the service (front, holder), so that they occupy little more than what is alive in them.
// Left to themselves both grow for an hour and more while nothing more is alive (docs/performance.md, B7): V8 doubles its young generation each time that
// as much has survived in it as it holds, up to 128 MiB, and keeps it while there is work; glibc keeps what was freed, in up to eight arenas for each
// processor, and takes ever larger buffers out of them.
// Invariants: known when a process begins; neither V8 nor glibc takes it later.

/** Half of the young generation of each. The front's start alone takes as much; what the holder makes is bytes, which are freed only when it is collected. */
const youngMib = { front: 16, holder: 2 };
/** One for the main thread, one for all others: they meet in it seldom. */
const arenas = 2;
/** From here on a buffer is a mapping of its own, which goes back to the system when it is freed; what one sale needs is smaller. */
const mappedFromBytes = 256 * 1024;

const flagsFor = (young: number): readonly string[] => [`--max-semi-space-size=${young}`];

/** Before the program's file. */
export const frontFlags: readonly string[] = flagsFor(youngMib.front);
export const holderFlags: readonly string[] = flagsFor(youngMib.holder);

/** For glibc (mallopt(3)); nobody else reads them. A threshold that is set is no longer raised. */
export const nodeEnvironment: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: String(arenas),
  MALLOC_MMAP_THRESHOLD_: String(mappedFromBytes),
};

/** For the holder alone. Half of its threads may hang in the mirror, and the FLASH still has the others: four that read or sync, and one that reads ahead (store/device-file). */
export const holderEnvironment: Readonly<Record<string, string>> = { ...nodeEnvironment, UV_THREADPOOL_SIZE: '10' };
