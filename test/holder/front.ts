// Owns: a front for tests: starts a holder process and prints its id, then waits to be killed.
import { startHolder } from '#holder/parent.ts';

const [softTokenPath = '', flashPath = ''] = process.argv.slice(2);
const holder = startHolder({
  config: { module: null, softTokenPath, flashPath, presencePaths: [] },
  events: { onState: (state) => process.stdout.write(`${state.kind} ${holder.pid()}\n`) },
  onChatter: (line) => process.stderr.write(`${line}\n`),
});
