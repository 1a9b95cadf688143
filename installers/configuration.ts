// Owns: writing service-files/ukeyd.toml, the commented example of the configuration: `node installers/configuration.ts`.
// A test fails when the file is older than the schema that it is made from.
import { writeFileSync } from 'node:fs';
import { settings } from '#ground/config.ts';
import { exampleText } from '#ground/config-example.ts';

const target = new URL('../service-files/ukeyd.toml', import.meta.url);
writeFileSync(target, exampleText(settings));
process.stdout.write(`wrote ${target.pathname}\n`);
