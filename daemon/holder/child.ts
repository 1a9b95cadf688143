// Owns: the entry of the holder process; parent.ts starts it. Composes the real token and FLASH with the message loop, nothing else.
// Invariants: takes no arguments and no environment of its own; everything comes through the channel.
import { flushCompileCache } from 'node:module';
import { restWhenQuiet } from '#ground/rest.ts';
import { serveParent } from './child-loop.ts';
import { partsOf } from './parts.ts';

serveParent(partsOf);
restWhenQuiet((error) => process.stderr.write(`memory that is left over is kept: ${String(error)}\n`));
flushCompileCache(); // where NODE_COMPILE_CACHE names a folder: the next start is faster, also after a kill
