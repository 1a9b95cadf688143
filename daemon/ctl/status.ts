// Owns: `ukeyctl status`: what the service can do now, why, and who must act.
import type { Command } from '#ctl/command.ts';
import { serviceOptions, withService } from '#ctl/connection.ts';
import { counted, facts, table } from '#ctl/screen.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { Result } from '#ipc-schema/methods.ts';
import type { BacklogStatus, Budget, ServiceStatus, TokenStatus } from '#ipc-schema/status.ts';

export const status: Command = {
  kind: 'command',
  name: 'status',
  summary: 'what the service can do now, why, and who must act',
  options: serviceOptions,
  examples: ['status', 'status --json', 'status --token annex', 'status --socket /run/user/1000/ukeyd-admin.sock'],
  async run(given, screen) {
    const found = await withService(given, screen, (service) =>
      service.call('service.status', {}).catch(async (thrown: unknown) => {
        const { code, field } = asUkeyError(thrown);
        if (code !== 'invalid-request' || field !== 'token' || given.text('token') !== undefined) throw thrown;
        return await service.call('service.tokens', {}); // there are several
      }),
    );
    screen.answer(found, 'tokens' in found ? tokensText(found) : statusText(found));
  },
};

/** Of several tokens, one line each, and what is to be done about them. */
function tokensText({ tokens }: Result<'service.tokens'>): string {
  const rows = tokens.map(({ token, issuer, standing, reason }) => [token, issuer ?? 'not known', standing, reason]);
  const toDo = tokens.filter(({ action }) => action !== '').map(({ token, action }) => `${token}: ${action}`);
  return [table(['Token', 'Issuer', 'Standing', 'Reason'], rows), ...toDo].join('\n');
}

/** For people. Pure. */
export function statusText(found: ServiceStatus): string {
  const { token, store, budget, backlog, clock, issuer, alarm } = found;
  return facts([
    ['Standing', found.standing],
    ['Reason', found.reason],
    ['To do', found.action === '' ? 'nothing' : found.action],
    ['Alarm', alarm === null ? null : `a second copy of this token issues: its batch ${alarm.batchIndex} was refused on ${alarm.raisedAt}`],
    ['Issuer', issuer === null ? null : `${issuer.name} (${issuer.taxId})`],
    ['Mode', found.mode],
    ['Budget', budget === null ? null : budgetText(budget)],
    ['Backlog', backlog === null ? null : backlogText(backlog)],
    ['Token', token === null ? 'none' : tokenText(token)],
    ['USB', found.usb === null ? null : usbText(found.usb)],
    [
      'Store',
      store === null
        ? 'none'
        : `${store.path}, ${sizeText(store.usedBytes)} of ${sizeText(store.sizeBytes)} used (${store.usedPercent} %), ` +
          `${forecastText(store.forecast)}, ${sizeText(store.bytesWritten)} written since it was formatted, ` +
          `${counted(store.entries, 'entry', 'entries')} in ${counted(store.batches, 'batch', 'batches')}, ${mirrorText(store)}` +
          (store.tornBytes === 0 ? '' : `, a torn tail of ${store.tornBytes} bytes was cut`),
    ],
    ['Templates', found.templates.map((one) => `${one.id} v${one.version} (${one.currency})`).join(', ')],
    ['Clock', clock.trusted ? clock.now : `${clock.now}, not trusted`],
    ['Version', found.version],
  ]);
}

/** What could be the token that is missed. */
function usbText({ smartCards, storage }: NonNullable<ServiceStatus['usb']>): string {
  const listed = (what: string, names: readonly string[]): string => (names.length === 0 ? `no ${what}` : `${what} ${names.join(', ')}`);
  return `${listed('smart card', smartCards)}; ${listed('storage', storage)}`;
}

function mirrorText({ mirror, mirrorState }: NonNullable<ServiceStatus['store']>): string {
  if (mirrorState === null) return `mirror ${mirror}`;
  if (mirrorState.failure !== null) return `mirror ${mirror}, not in use: ${mirrorState.failure}`;
  const behind = mirrorState.behindBytes === 0 ? '' : `, ${sizeText(mirrorState.behindBytes)} behind`;
  const healed = mirrorState.healedFlash + (mirrorState.remade ? 0 : mirrorState.healedMirror);
  return `mirror ${mirror}${behind}${mirrorState.remade ? ', made anew' : healed === 0 ? '' : `, ${healed} places healed`}`;
}

export function forecastText(forecast: NonNullable<ServiceStatus['store']>['forecast']): string {
  switch (forecast.kind) {
    case 'unknown':
      return 'too new to say when it is full';
    case 'steady':
      return 'at this rate never full';
    case 'fills':
      return forecast.daysLeft > 3_650
        ? 'full in more than ten years'
        : `full in ${counted(Math.floor(forecast.daysLeft), 'day')} at this rate`;
  }
}

export function budgetText(budget: Budget): string {
  const left = [
    budget.hoursLeft === null ? null : `${budget.hoursLeft} h`,
    budget.countLeft === null ? null : counted(budget.countLeft, 'document'),
    budget.amountLeft,
  ].filter((part) => part !== null);
  const rest = left.length === 0 ? 'no limit' : `${left.join(', ')} left (${budget.usedPercent} % used)`;
  return budget.single === null ? rest : `${rest}, at most ${budget.single} each`;
}

export function backlogText(backlog: BacklogStatus): string {
  const parts = [
    backlog.pending === 0 ? 'nothing waits' : `${counted(backlog.pending, 'document')} (${backlog.amount}) since ${backlog.oldest ?? '?'}`,
  ];
  parts.push(`link ${backlog.link}`);
  if (backlog.lastError !== null) parts.push(`last error: ${backlog.lastError}`);
  if (backlog.nextProbe !== null) parts.push(`next probe ${backlog.nextProbe}`);
  if (backlog.parked.length > 0) parts.push(`parked: ${backlog.parked.join(', ')}`);
  return parts.join('; ');
}

function tokenText(token: TokenStatus): string {
  const parts = [`${token.label} (serial ${token.serial}, ${token.module})`, pinText(token.pinState, token.triesLeft)];
  if (token.certificateExpires !== null) parts.push(`certificate until ${token.certificateExpires.slice(0, 10)}`);
  if (token.storedPin === 'wrong') parts.push("the stored PIN is not the token's");
  if (token.meanSignMs !== null) parts.push(`${counted(token.signatures, 'signature')} of ${token.meanSignMs.toFixed(1)} ms`);
  if (token.signFailures > 0) parts.push(counted(token.signFailures, 'failed signature'));
  if (token.restarts > 0) parts.push(counted(token.restarts, 'restart'));
  if (token.lastFailure !== null) parts.push(`last failure ${token.lastFailureAt ?? ''}: ${token.lastFailure}`);
  if (token.selfTestAt !== null) parts.push(`self test ${token.selfTestAt}`);
  return parts.join(', ');
}

/** What is known about the PIN's tries; some modules give a number, most only say that it gets low. */
export function pinText(pinState: TokenStatus['pinState'], triesLeft: number | null): string {
  const tries = triesLeft === null ? '' : `, ${triesLeft === 1 ? '1 try' : `${triesLeft} tries`} left`;
  switch (pinState) {
    case 'ok':
      return `PIN ok${tries}`;
    case 'low':
      return triesLeft === null ? 'PIN: a wrong one was entered, fewer tries are left' : `PIN: a wrong one was entered${tries}`;
    case 'last':
      return 'PIN: one try left';
    case 'locked':
      return 'PIN locked';
  }
}

function sizeText(bytes: number): string {
  const mib = bytes / (1024 * 1024);
  return mib >= 1024 ? `${(mib / 1024).toFixed(1)} GiB` : `${mib.toFixed(mib < 10 ? 1 : 0)} MiB`;
}
