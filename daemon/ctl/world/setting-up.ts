// Owns: what makes a sandbox's service ready the first time: the token provisioned with a ticket of its server, one till enrolled.
// Invariants: each step looks first whether it was done, so that a start that was broken off is completed by the next; a ticket's code
// goes from the server's standard output into the service, through no argument or log, and is kept beside the PIN until the token is provisioned.
// Must not: start or stop anything that stays.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { openSecretFile } from '#ctl/output-file.ts';
import { writeDurably } from '#ground/durable-file.ts';
import type { Client } from '#ipc-schema/client.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { type EnrolmentTicket, parseTicket } from '#ipc-schema/upstream.ts';
import { processEnv, programFile } from './ground-plan.ts';
import { type Layout, readPinFile } from './layout.ts';

/** A real module may take long to make keys. */
const provisionWaitMs = 120_000;
const ticketWaitMs = 30_000;
/** A service that was started a moment ago logs in and reads its ledger meanwhile. */
const settleWaitMs = 15_000;
const lookMs = 100;
const ticketMaxChars = 65_536;
const label = 'sandbox';

export interface SettingUp {
  readonly layout: Layout;
  readonly admin: Client;
  readonly terminal: string;
  readonly provisioned: boolean;
  /** The start is given up. */
  readonly over: AbortSignal;
  /** The token carries a ledger from now on. */
  onProvisioned(): void;
  note(text: string): void;
}

/** True: the token was provisioned just now. */
export async function setUpToken(parts: SettingUp): Promise<boolean> {
  const isNew = !parts.provisioned && (await provision(parts));
  await enrolTill(parts);
  return isNew;
}

async function provision({ layout, admin, onProvisioned, over, note }: SettingUp): Promise<boolean> {
  // Done by a start that ended before it could be remembered.
  let isDone = await isProvisioned(admin);
  const isNew = !isDone;
  if (isNew) {
    const ticket = keptTicket(layout, note) ?? (await makeTicket(layout, over));
    writeDurably(layout.ticketFile, JSON.stringify(ticket));
    const pins = { pin: readPinFile(layout.pinFile), soPin: readPinFile(layout.soPinFile) };
    try {
      await admin.call('token.provision', { label, ticket, ...pins }, { timeoutMs: provisionWaitMs });
    } catch (error) {
      if (asUkeyError(error).code === 'forbidden') rmSync(layout.ticketFile, { force: true }); // the next start has another one
      if (asUkeyError(error).code !== 'invalid-request') throw error;
      // Perhaps done, and the service had not opened the token yet when it was asked.
      for (const endMs = performance.now() + settleWaitMs; !isDone && performance.now() < endMs; isDone = await isProvisioned(admin))
        await sleep(lookMs, undefined, { signal: over });
      if (!isDone) throw error;
    }
  }
  onProvisioned();
  rmSync(layout.ticketFile, { force: true });
  return isNew && !isDone;
}

/** That of a start before this one: for a key that it has enrolled, the server answers to that ticket alone. Null: there is none. */
function keptTicket({ ticketFile }: Layout, note: SettingUp['note']): EnrolmentTicket | null {
  if (!existsSync(ticketFile)) return null;
  try {
    return parseTicket(decodeJson(readFileSync(ticketFile)));
  } catch (error) {
    note(`${ticketFile} is no ticket, another one is made: ${asUkeyError(error).message}`);
    return null;
  }
}

async function isProvisioned(admin: Client): Promise<boolean> {
  const { token, templates } = await admin.call('service.status', {});
  return token?.tokenId !== null && token?.tokenId !== undefined && templates.length > 0;
}

/** One more ticket, made by the server's own program beside the server that runs. */
async function makeTicket(layout: Layout, over: AbortSignal): Promise<EnrolmentTicket> {
  const args = [programFile('server/main'), 'ticket', '--dir', layout.serverDir, '--charter', layout.charter];
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: ticketWaitMs,
    signal: over,
    env: { ...process.env, ...processEnv(layout) },
  });
  let output = '';
  let complaint = '';
  child.stdout.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString('utf8')).slice(0, ticketMaxChars);
  });
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString('utf8')).slice(-ticketMaxChars);
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (status !== 0) throw new UkeyError('internal', `the ticket server made no ticket: ${complaint.trim()}`);
  return parseTicket(JSON.parse(output));
}

/** A till whose secret is lost here, or that the service forgot, is enrolled anew. */
async function enrolTill({ layout, admin, terminal }: SettingUp): Promise<void> {
  const { terminals } = await admin.call('terminal.list', {});
  const isKnown = terminals.some((one) => one.terminal === terminal);
  if (isKnown && existsSync(layout.secretFile)) return;
  if (isKnown) await admin.call('terminal.remove', { terminal });
  rmSync(layout.secretFile, { force: true });
  const file = openSecretFile(layout.secretFile, '--dir');
  let isKept = false;
  try {
    const { secret } = await admin.call('terminal.enrol', { terminal, role: 'till' });
    file.write(secret);
    isKept = true;
  } finally {
    if (!isKept) file.discard();
  }
}
