// Owns: the service's process: arguments, signals, exit codes. `node daemon/main.ts --config FILE`.
// SIGHUP reads the configuration again: what may change while it runs is taken up, of the rest it is said that it waits; one that is not right changes nothing.
// Exit codes: 0 ended by a signal, 1 a fault, 2 wrong arguments or configuration, 3 another service holds the socket or the state folder.
import { flushCompileCache } from 'node:module';
import { readCommandLine, usageText } from '#ground/command-line.ts';
import { changesBetween, configFileDefault, type Given, loadConfig, type Sources, settings } from '#ground/config.ts';
import { type Log, openProcessLog, type ProcessLog, whyOf } from '#ground/log.ts';
import { restWhenQuiet } from '#ground/rest.ts';
import { asUkeyError, type UkeyError } from '#ipc-schema/errors.ts';
import { compose, type RunningService } from './compose.ts';
import { greet, type ManagerWish, takeWish, Watchdog } from './watchdog.ts';

async function main(): Promise<void> {
  const { help, config: file, flags } = readCommandLine(settings, process.argv.slice(2));
  if (help) {
    process.stdout.write(usageText(settings, configFileDefault));
    return;
  }
  const wish = takeWish(process.env, process.pid); // first: no child inherits it
  const sources: Sources = { file, environment: process.env, flags };
  const given = loadConfig(sources);
  const { config } = given;
  const log = openProcessLog(config.log);
  process.on('uncaughtException', (error) => {
    log.error('a fault nobody caught; the service ends and is started again by its manager', { why: whyOf(error), stack: error.stack });
    process.exit(1);
  });
  let reload = (): void => undefined; // unheard, the signal would end the process
  process.on('SIGHUP', () => reload());
  const running = await compose(config, log);
  flushCompileCache(); // where NODE_COMPILE_CACHE names a folder: the next start is faster, also after a kill
  restWhenQuiet((error) => log.warn('memory that is left over is kept', { why: whyOf(error) }));
  const watchdog = wish === null ? null : openWatchdog(wish, config.admin_socket, running, log);
  reload = reloading(sources, given, running, log);
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

function openWatchdog(wish: ManagerWish, adminSocketPath: string, { places }: RunningService, log: Log): Watchdog {
  let shownMs = performance.now();
  // Of several tokens one that shows itself is enough: a restart would take the others away.
  const holderSilentMs = (): number => {
    const nowMs = performance.now();
    if (places.some(({ custody }) => custody.state.kind !== 'starting')) shownMs = nowMs;
    return nowMs - shownMs;
  };
  const line = (): string =>
    places
      .map(({ name, custody }) => {
        const { standing, reason } = custody.standing();
        return places.length === 1 ? `${standing}: ${reason}` : `${name}: ${standing}`;
      })
      .join('; ');
  return new Watchdog({ wish, log, ask: () => greet(adminSocketPath), line, holderSilentMs });
}

/** What is taken up is compared with what is in force; what waits, with what the service was started with. */
function reloading(sources: Sources, started: Given, running: RunningService, log: ProcessLog): () => void {
  let inForce = started;
  return () => {
    try {
      const next = loadConfig(sources);
      running.reload(next.config);
      log.setLevel(next.config.log.level);
      const { live } = changesBetween(inForce, next);
      inForce = next;
      log.info('the configuration was read again', { changed: live.join(', ') });
      const { later } = changesBetween(started, next);
      if (later.length > 0) log.warn('what was changed besides takes effect at the next start', { keys: later.join(', ') });
    } catch (error) {
      log.error('the configuration is not right: the service goes on with the one that it has', { why: whyOf(error) });
    }
  };
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
