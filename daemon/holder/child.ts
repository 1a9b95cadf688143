// Owns: the entry of the holder process; parent.ts starts it. Composes the real token and FLASH with the message loop, nothing else.
// Invariants: takes no arguments and no environment of its own; everything comes through the channel.
import { serveParent } from './child-loop.ts';
import { partsOf } from './parts.ts';

serveParent(partsOf);
