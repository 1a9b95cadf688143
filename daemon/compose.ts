// Owns: from configuration to a running service: its tokens (place.ts) and its doors, opened in order, closed in reverse.
// Order: state folder and its lock -> places -> doors. The doors open last: who can connect is served.
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { Note } from '#desk/audit.ts';
import { audited } from '#desk/audited.ts';
import { refuseLeftBehind } from '#desk/state-folders.ts';
import { Terminals } from '#desk/terminals.ts';
import { refuseOtherIssuer, type Wanted, whichToken } from '#desk/which-token.ts';
import { systemClock } from '#ground/clock.ts';
import { type Config, digestOf, type TokenConfig } from '#ground/config.ts';
import { type Lock, takeLock } from '#ground/lock.ts';
import { aboutAll, type Log, whyOf } from '#ground/log.ts';
import { machineFacts } from '#ground/machine.ts';
import { stateFolderFault } from '#ground/state-fault.ts';
import type { Caller } from '#ipc/caller.ts';
import { type Handlers, type Service, serve } from '#ipc/serve.ts';
import { type Methods, methods, type Result, type TokenMethod } from '#ipc-schema/methods.ts';
import { isIssuing, type Standing, standings } from '#ipc-schema/status.ts';
import type { Custody } from '#ledger/custody.ts';
import { Metrics, type MetricsParts } from '#metrics/metrics.ts';
import { inTurn, openPlace, type Place, type PlaceOverrides } from './place.ts';

export type Overrides = PlaceOverrides;

/** A dozen shell commands ask the machine for its facts: not while the first invoice waits for the token to open. */
const machineFactsAfterMs = 10_000;

export interface RunningService {
  readonly places: readonly [Place, ...Place[]];
  /** Of the first place. */
  readonly custody: Custody;
  readonly service: Service;
  readonly metrics: Metrics;
  /** Takes up what may change while it runs. Throws invalid-request, and then nothing has changed. */
  reload(config: Config): void;
  close(): Promise<void>;
}

export async function compose(config: Config, log: Log, overrides: Overrides = {}): Promise<RunningService> {
  const closing: (() => Promise<void> | void)[] = [];
  // Whatever one part says, the others are closed, down to the lock.
  const close = (): Promise<void> => inTurn(closing.splice(0).reverse());
  try {
    const folders = config.tokens.map(({ state }) => state);
    for (const folder of new Set([config.state, ...folders])) {
      const lock = claimFolder(folder);
      closing.push(() => lock.release());
    }
    refuseLeftBehind(config.state, folders);
    const terminals = new Terminals(config.state);
    const version = serverVersion();
    const several = config.tokens.length > 1;
    const begun: Place[] = [];
    // All at once: one that is stuck must not take the time that the others need for a clean end.
    closing.push(() => allClosed(begun));
    const open = async (token: TokenConfig): Promise<Place> => {
      const ownLog = several ? aboutAll(log, { token: token.name }) : log;
      const place = await openPlace({ config: token, probe: config.upload.probe, log: ownLog, version, overrides });
      begun.push(place);
      return place;
    };
    const [first, ...others] = config.tokens;
    const places: [Place, ...Place[]] = [await open(first)];
    for (const token of others) places.push(await open(token));
    const noteAll = (note: Note, token: string | null = null): void => {
      for (const place of places) if (token === null || token === place.name) place.note(note);
    };
    noteAll({ what: 'service.start', who: 'service', outcome: 'done', digest: digestOf(config) });
    const clock = overrides.clock ?? systemClock;
    const metrics = openMetrics(places, { log, clock, version, connections: () => service.connectionCount });
    const service = await serve({
      methods,
      handlers: handlersOf(places, terminals, noteAll),
      tillSocketPath: config.socket,
      adminSocketPath: config.admin_socket,
      group: config.socket_group,
      findTerminal: (id) => terminals.find(id),
      standing: () => best(places.map(({ custody }) => custody.standing().standing)),
      serverName: `ukeyd/${version}`,
      clock,
      randomBytes,
      report: (level, what, facts) => log[level](what, facts),
      onAnswered: ({ method, caller, code, tookMs }) => {
        metrics.requests.answered(method, code, tookMs);
        log.debug('request', { method, caller, code: code ?? undefined, ms: Math.round(tookMs * 100) / 100 });
      },
    });
    closing.push(() => metrics.close());
    closing.push(async () => {
      const closed = service.close();
      for (const place of places) place.giveUp();
      await closed;
    });
    for (const place of places) place.announce((notice) => service.publish(notice));
    await metrics.follow(config.metrics); // never rejects
    const asking = setTimeout(() => {
      machineFacts().then(
        (facts) => log.info('machine', { ...facts }),
        (error: unknown) => log.debug('the machine tells nothing about itself', { why: whyOf(error) }),
      );
    }, machineFactsAfterMs).unref();
    closing.push(() => clearTimeout(asking));
    const reload = (next: Config): void => {
      for (const place of places) place.probeAt(next.upload.probe); // first: it may refuse
      void metrics.follow(next.metrics); // never rejects
      noteAll({ what: 'service.reload', who: 'service', outcome: 'done', digest: digestOf(next) });
    };
    return { places, custody: places[0].custody, service, metrics, reload, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Throws busy where another service has it, and invalid-request where it cannot be used. */
function claimFolder(folder: string): Lock {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    return takeLock(path.join(folder, 'ukeyd.lock'), 'Stop the other service, or give this one another state folder (state).');
  } catch (thrown) {
    throw stateFolderFault(thrown, folder);
  }
}

/** The first failure is thrown once all have ended. */
async function allClosed(places: readonly Place[]): Promise<void> {
  const ends = await Promise.allSettled(places.map((place) => place.close()));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}

/** What the service can do at best: the first in the order of the table. */
function best(found: readonly Standing[]): Standing {
  return standings.find((standing) => found.includes(standing)) ?? 'no-token';
}

/** Ready is who can issue on each of the tokens: the tills of one are no help to those of another. */
function openMetrics(places: readonly Place[], around: Omit<MetricsParts, 'tokens' | 'readiness'>): Metrics {
  return new Metrics({
    ...around,
    tokens: () => Promise.all(places.map((place) => place.figures())),
    readiness: () => {
      const found = places.map(({ name, custody }) => ({ name, ...custody.standing() }));
      const lines = found.map(
        ({ name, standing, reason, action }) => `${name}: ${standing}: ${reason}${action === '' ? '' : `. ${action}`}\n`,
      );
      return { ready: found.every(({ standing }) => isIssuing(standing)), text: lines.join('') };
    },
  });
}

function handlersOf(places: readonly [Place, ...Place[]], terminals: Terminals, note: NoteAll): Handlers<Methods> {
  return {
    ...routedHandlers(places),
    ...terminalHandlers(places, terminals, note),
    'service.tokens': async (caller) => ({
      tokens: places.filter(({ name }) => caller.token === null || caller.token === name).map(tokenOf),
    }),
  };
}

/** `token`: the only one whose trail it belongs into. */
type NoteAll = (note: Note, token: string | null) => void;
type TerminalMethod = 'terminal.enrol' | 'terminal.list' | 'terminal.remove';

/** A terminal of one token is no business of the others' issuers, whose ledgers are read by others. */
function terminalHandlers(places: readonly Place[], terminals: Terminals, note: NoteAll): Pick<Handlers<Methods>, TerminalMethod> {
  const handlers: Pick<Handlers<Methods>, TerminalMethod> = {
    'terminal.enrol': async (_caller, { terminal, role, token, replace }) => {
      if (token !== undefined) whichToken(places, null, { token });
      return terminals.enrol(terminal, role, { token, replace });
    },
    'terminal.list': async () => ({ terminals: terminals.list() }),
    'terminal.remove': async (_caller, params) => terminals.remove(params.terminal),
  };
  const notedFor = (token: string | null): typeof handlers => audited({ note: (one) => note(one, token) }, handlers);
  return {
    ...handlers,
    'terminal.enrol': (caller, params) => notedFor(params.token ?? null)['terminal.enrol'](caller, params),
    'terminal.remove': (caller, params) => notedFor(terminals.find(params.terminal)?.token ?? null)['terminal.remove'](caller, params),
  };
}

type AnyHandler = (caller: Caller, params: Wanted) => Promise<unknown>;

/** Of each method the place's own handler, once it is clear which place is meant. */
function routedHandlers(places: readonly [Place, ...Place[]]): Place['handlers'] {
  const route = (method: TokenMethod): AnyHandler => {
    return (caller, wanted) => {
      const place = whichToken(places, caller.token, wanted);
      const charter = place.custody.ledger?.charter ?? null;
      if (charter !== null) refuseOtherIssuer(wanted, charter);
      // What the schema of a method has let through is what its handler takes: serve() sees to that.
      const handler = place.handlers[method] as unknown as AnyHandler;
      return handler(caller, wanted);
    };
  };
  return Object.fromEntries(
    (Object.keys(places[0].handlers) as TokenMethod[]).map((method) => [method, route(method)]),
  ) as unknown as Place['handlers'];
}

function tokenOf({ name, issuer, custody }: Place): Result<'service.tokens'>['tokens'][number] {
  const { ledger } = custody;
  const tokenId = ledger === null ? null : Buffer.from(ledger.mount.tokenId).toString('hex');
  return { token: name, tokenId, issuer: issuer ?? ledger?.charter?.issuer.taxId ?? null, ...custody.standing() };
}

function serverVersion(): string {
  const content = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string };
  return content.version;
}
