// Owns: the service's process: arguments, signals, exit codes. `node daemon/main.ts --config FILE`.
// Exit codes: 0 ended by a signal, 1 a fault, 2 wrong arguments or configuration, 3 another service holds the socket or the state folder.
import { flushCompileCache } from 'node:module';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { readConfig } from '#ground/config.ts';
import { type Log, openLog, whyOf } from '#ground/log.ts';
import { asUkeyError, type UkeyError } from '#ipc-schema/errors.ts';
import { compose, type RunningService } from './compose.ts';
import { greet, type ManagerWish, takeWish, Watchdog } from './watchdog.ts';

const usage = 'Usage: ukeyd --config FILE.toml\n';

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string' }, help: { type: 'boolean' } }, strict: true });
  if (values.help === true) {
    process.stdout.write(usage);
    return;
  }
  if (values.config === undefined) {
    process.stderr.write(usage);
    process.exitCode = 2;
    return;
  }
  const wish = takeWish(process.env, process.pid); // first: no child inherits it
  const config = readConfig(values.config);
  const log = openLog(config.log);
  process.on('uncaughtException', (error) => {
    log.error('a fault nobody caught; the service ends and is started again by its manager', { why: whyOf(error), stack: error.stack });
    process.exit(1);
  });
  const running = await compose(config, log);
  flushCompileCache(); // where NODE_COMPILE_CACHE names a folder: the next start is faster, also after a kill
  const watchdog = wish === null ? null : openWatchdog(wish, config.admin_socket, running, log);
  let ending = false;
  const end = (signal: string): void => {
    if (ending) return;
    ending = true;
    log.info('ending', { signal });
    void watchdog?.stopping(); // never rejects
    running.close().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error('the service did not end cleanly', { why: whyOf(error) });
        process.exit(1);
      },
    );
  };
  process.on('SIGTERM', () => end('SIGTERM'));
  process.on('SIGINT', () => end('SIGINT'));
  await watchdog?.ready();
}

function openWatchdog(wish: ManagerWish, adminSocketPath: string, { custody }: RunningService, log: Log): Watchdog {
  let shownMs = performance.now();
  const holderSilentMs = (): number => {
    const nowMs = performance.now();
    if (custody.state.kind !== 'starting') shownMs = nowMs;
    return nowMs - shownMs;
  };
  const line = (): string => {
    const { standing, reason } = custody.standing();
    return `${standing}: ${reason}`;
  };
  return new Watchdog({ wish, log, ask: () => greet(adminSocketPath), line, holderSilentMs });
}

function exitCodeOf(error: UkeyError): number {
  if (error.code === 'busy') return 3;
  return error.code === 'invalid-request' ? 2 : 1;
}

main().catch((thrown: unknown) => {
  const error = asUkeyError(thrown);
  process.stderr.write(`ukeyd: ${error.code}: ${whyOf(error)}\n${error.action}\n`);
  process.exit(exitCodeOf(error));
});
