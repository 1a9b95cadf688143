// Owns: the service with instruments: composed as in production, with a holder that can be slow and tells its stages (instrumented-child.ts).
import process from 'node:process';
import { parseArgs } from 'node:util';
import { compose } from '#daemon/compose.ts';
import { readConfig } from '#ground/config.ts';
import { openLog } from '#ground/log.ts';
import { startHolder } from '#holder/parent.ts';
import { profileOnSignal, Stopwatch } from './instruments.ts';

const { values } = parseArgs({ options: { config: { type: 'string' } } });
const config = readConfig(values.config ?? '');
const log = openLog(config.log);
profileOnSignal(config.state, 'front', new Stopwatch());
const running = await compose(config, log, {
  startHolder: (holder, events) =>
    startHolder({
      config: holder,
      events,
      entry: new URL('./instrumented-child.ts', import.meta.url),
      onChatter: (line) => log.info('holder', { line }),
    }),
});
process.on('SIGTERM', () => {
  running.close().then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
