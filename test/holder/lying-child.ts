// Owns: a holder process for tests that answers its configuration with the messages that a file beside the FLASH holds, as JSON, and then lives on.
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

process.on('message', (message: { kind: string; config?: { flashPath: string } }) => {
  if (message.config === undefined) return;
  const said = JSON.parse(readFileSync(join(dirname(message.config.flashPath), 'say.json'), 'utf8')) as unknown[];
  for (const each of said) process.send?.(each);
});
process.on('disconnect', () => process.exit(0));
