// Owns: `ukeyctl token probe`: what any vendor's PKCS#11 module can do, and whether it can carry ukeyd.
// A file of ukeyctl that opens a token by itself (as verify-store.ts does): the question comes before there is a service, and the module runs in a
// holder process with a deadline, because it may hang or crash.
// Invariants: nothing that stays is written to the token; a PIN is used only for a token that is named, once, and never its last try.
import path from 'node:path';
import type { Command } from '#ctl/command.ts';
import { endAs, usage } from '#ctl/exit-codes.ts';
import { readPin } from '#ctl/prompt.ts';
import { facts, table } from '#ctl/screen.ts';
import { type ModuleReport, probeInChild, type TokenReport } from '#holder/probing.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';

/** A chip may take half a minute over an RSA key pair. */
const deadlineSecondsDefault = 120;
const deadlineSecondsMax = 3_600;

export const probe: Command = {
  kind: 'command',
  name: 'probe',
  summary: "what a vendor's PKCS#11 module can do, and whether it can carry the service",
  options: [
    { flags: '--module <file>', description: "the vendor's PKCS#11 module" },
    { flags: '--module-parameters <text>', description: 'what the module wants to be told in C_Initialize (NSS does)' },
    { flags: '--token-label <label>', description: 'only this token; needed for what asks for a PIN' },
    { flags: '--pin-file <file>', description: 'log in with the PIN in this file (- is stdin): signatures are timed' },
    { flags: '--prove', description: 'prove each ability with keys that vanish with the session; asks for the PIN' },
    { flags: '--deadline <seconds>', description: `give up after this (default: ${deadlineSecondsDefault})` },
  ],
  examples: [
    'token probe --module /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so',
    'token probe --module /usr/lib/softhsm/libsofthsm2.so --token-label shop-7 --pin-file pin --prove --json',
  ],
  async run(given, screen) {
    const modulePath = path.resolve(given.needText('module'));
    const moduleParameters = given.text('moduleParameters') ?? null;
    const label = given.text('tokenLabel') ?? null;
    const prove = given.flag('prove');
    const file = given.text('pinFile');
    const deadlineSeconds = Number(given.text('deadline') ?? deadlineSecondsDefault);
    if (!(deadlineSeconds > 0 && deadlineSeconds <= deadlineSecondsMax))
      throw usage(`--deadline is a number of seconds up to ${deadlineSecondsMax}`, { field: '--deadline' });
    const needsPin = prove || file !== undefined;
    if (needsPin && label === null) throw usage('name the token whose PIN is used with --token-label', { field: '--token-label' });
    const pin = needsPin ? await readPin({ file, what: 'PIN', option: '--pin-file' }, screen) : null;
    const report = await probeInChild({ modulePath, moduleParameters, label, pin, prove }, deadlineSeconds * 1_000).catch(
      (thrown: unknown) => {
        throw endAs('refused', asUkeyError(thrown));
      },
    );
    const canCarry = report.tokens.some((one) => one.canCarry);
    screen.answer({ ...report, canCarry, proven: prove }, reportText(report, prove), canCarry ? 'done' : 'refused');
  },
};

/** For people. Pure. */
export function reportText(report: ModuleReport, proven: boolean): string {
  const parts = [facts([['Module', report.module]])];
  for (const one of report.tokens) parts.push(tokenText(one, proven));
  for (const why of report.mute) parts.push(`A slot could not be asked: ${why}\n`);
  if (report.tokens.length === 0) parts.push('No token is there.\n');
  return parts.join('\n');
}

function tokenText(one: TokenReport, proven: boolean): string {
  const { signing, wrapping, dataObjects, missing, isOnToken, leftBehind } = one;
  const chosen = wrapping.find(({ ability: { kind } }) => kind !== 'absent' && kind !== 'failed')?.method ?? null;
  const verdict = !one.canCarry
    ? 'cannot carry the service'
    : proven
      ? 'can carry the service'
      : 'seems able to carry the service; --prove tells';
  return [
    facts([
      ['Token', `${one.label === '' ? '(blank)' : one.label} (serial ${one.serial}, ${one.model}, ${one.manufacturer})`],
      ['Standing', one.initialized ? `${one.provisioned ? 'provisioned' : 'initialised'}, PIN ${one.pinState}` : 'blank'],
      ['Signs', `${signing.algorithm ?? 'nothing'}${signing.signMs === null ? '' : `, ${signing.signMs.toFixed(1)} ms each`}`],
      ['New key pair', one.generateMs === null ? null : `${one.generateMs.toFixed(0)} ms`],
      ['Wraps by', chosen ?? 'nothing'],
      ['Missing', missing.join('; ')],
      ['Proof', isOnToken ? 'by keys on the token itself, which are destroyed again: it makes none for a session' : null],
      ['Left behind', leftBehind === 0 ? null : `${leftBehind} objects of this probe, whose names begin with probe-`],
      ['Verdict', verdict],
    ]),
    table(
      ['ability', 'state', 'why'],
      [
        ['signature', signing.ability] as const,
        ...wrapping.map(({ method, ability }) => [method, ability] as const),
        ['data objects', dataObjects] as const,
      ].map(([name, ability]) => [name, ability.kind, ability.kind === 'failed' ? ability.reason : '']),
    ),
  ].join('');
}
