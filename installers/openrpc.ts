// Owns: writing ipc-schema/openrpc.json, the generated description of the local API: `node installers/openrpc.ts`.
// A test fails when the file is older than the tables it is generated from.
import { writeFileSync } from 'node:fs';
import { openrpcText } from '#ipc-schema/openrpc.ts';

const target = new URL('../ipc-schema/openrpc.json', import.meta.url);
writeFileSync(target, openrpcText());
process.stdout.write(`wrote ${target.pathname}\n`);
