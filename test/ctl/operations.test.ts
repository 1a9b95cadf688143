import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { EnrolmentTicket } from '#ipc-schema/upstream.ts';
import { ctl, ctlEntry, errorOf, jsonOf, type Run, runProgram } from '#test/support/ctl.ts';
import { FakeService, HangUp, type Script } from '#test/support/fake-service.ts';
import { backlogAnswer, statusAnswer } from './answers.ts';

/** prlimit(1) of util-linux: takes the room from a program that runs. Never doubted where CI is set. */
const limitTool = '/usr/bin/prlimit';
const hasLimits = process.env['CI'] !== undefined || existsSync(limitTool);

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-ctl-'));
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

const secret = 'c3'.repeat(32);
const enrols: Script = {
  'terminal.enrol': ({ terminal, role }) => ({ terminal, role, secret }),
  'terminal.list': () => ({ terminals: [{ terminal: 'till-1', role: 'till' }] }),
  'terminal.remove': ({ terminal }) => ({ terminal }),
};

describe.concurrent('status', () => {
  it('says in plain words what is, why, and what to do', async () => {
    await using service = await FakeService.start({ script: { 'service.status': () => statusAnswer } });
    const run = await ctl(['status', '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatchInlineSnapshot(`
      "Standing   issuing-offline
      Reason     the ticket server does not answer
      To do      nothing
      Issuer     Example Gifts Ltd (GB123456789)
      Mode       hybrid
      Budget     71.5 h, 998 documents, 99969.40 left (0 % used), at most 5000 each
      Backlog    2 documents (30.60) since 2030-01-02T03:04:05Z; link down; last error: no answer in time; next probe 2030-01-02T03:05:15Z
      Token      shop-7 (serial 00000001, embedded soft token), PIN ok, 3 tries left, certificate until 2033-01-02, 5 signatures of 0.3 ms
      Store      /var/lib/ukeyd/flash.img, 1.0 MiB of 256 MiB used (0 %), too new to say when it is full, 0.0 MiB written since it was formatted, 7 entries in 5 batches, mirror off
      Templates  retail v1 (GBP)
      Clock      2030-01-02T03:05:10Z
      Version    0.1.0
      "
    `);
  });

  it('says so when there is neither token nor store', async () => {
    const bare = {
      ...statusAnswer,
      standing: 'no-token' as const,
      token: null,
      store: null,
      budget: null,
      backlog: null,
      issuer: null,
      mode: null,
    };
    await using service = await FakeService.start({
      script: { 'service.status': () => ({ ...bare, templates: [], action: 'Plug the token in.' }) },
    });
    const run = await ctl(['status', '--socket', service.socketPath]);
    expect(run.stdout).toMatchInlineSnapshot(`
      "Standing  no-token
      Reason    the ticket server does not answer
      To do     Plug the token in.
      Token     none
      Store     none
      Clock     2030-01-02T03:05:10Z
      Version   0.1.0
      "
    `);
  });
});

describe.concurrent('backlog', () => {
  const script: Script = { 'backlog.status': () => backlogAnswer, 'backlog.flush': () => ({ ...backlogAnswer, pending: 0, oldest: null }) };

  it('shows what waits', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['backlog', '--json', '--socket', service.socketPath]);
    expect(jsonOf(run)).toEqual(backlogAnswer);
    expect(service.asked).toEqual(['backlog.status']);
  });

  it('is sent with --flush', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['backlog', '--flush', '--socket', service.socketPath]);
    expect(run.stdout).toContain('nothing');
    expect(service.asked).toEqual(['backlog.flush']);
  });

  it("passes the service's refusal on, field and advice included", async () => {
    const refusal = new UkeyError('offline', 'the charter forbids it', { field: 'mode', action: 'Carry a bundle.' });
    await using service = await FakeService.start({
      script: {
        'backlog.flush': () => {
          throw refusal;
        },
      },
    });
    const run = await ctl(['backlog', '--flush', '--json', '--socket', service.socketPath]);
    expect(run.status).toBe(3);
    expect(run.stderr).toBe('offline: the charter forbids it (mode) - Carry a bundle.\n');
    expect(errorOf(run)).toEqual({ ...refusal.toData(), message: refusal.message, exit: 'refused', status: 3 });
  });
});

describe.concurrent('of a service with several tokens', () => {
  const several: Script = {
    'service.status': ({ token }) => {
      if (token === 'annex') return statusAnswer;
      throw new UkeyError('invalid-request', 'token: several tokens could serve this', {
        field: 'token',
        action: 'Name one: shop, annex.',
      });
    },
    'service.tokens': () => ({
      tokens: [
        { token: 'shop', tokenId: null, issuer: 'GB1', standing: 'no-token', reason: 'no token is seen', action: 'Plug the token in.' },
        { token: 'annex', tokenId: 'ab', issuer: null, standing: 'issuing-online', reason: 'all is well', action: '' },
      ],
    }),
    'terminal.enrol': ({ terminal, role, token }) => ({ terminal, role, token, secret }),
    'terminal.list': () => ({
      terminals: [
        { terminal: 'till-1', role: 'till' },
        { terminal: 'till-2', role: 'till', token: 'annex' },
      ],
    }),
  };

  it('status tells each in a line, and what is to be done', async () => {
    await using service = await FakeService.start({ script: several });
    const run = await ctl(['status', '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(run.stdout).toMatchInlineSnapshot(`
      "Token  Issuer     Standing        Reason
      shop   GB1        no-token        no token is seen
      annex  not known  issuing-online  all is well

      shop: Plug the token in.
      "
    `);
  });

  it('every command about a token names the one that --token names', async () => {
    await using service = await FakeService.start({ script: several });
    const run = await ctl(['status', '--json', '--token', 'annex', '--socket', service.socketPath]);
    expect(jsonOf(run)).toMatchObject({ standing: 'issuing-offline' });
    expect(service.requests.at(-1)).toMatchObject({ method: 'service.status', params: { token: 'annex' } });
    const other = await ctl(['status', '--json', '--token', 'shop', '--socket', service.socketPath]);
    expect(other.status).toBe(3);
    expect(errorOf(other)).toMatchObject({ code: 'invalid-request', field: 'token' });
  });

  it('a terminal is enrolled for one of them, and the list says for which', async () => {
    await using service = await FakeService.start({ script: several });
    const run = await ctl(['terminal', 'enrol', 'till-2', '--token', 'annex', '--show', '--socket', service.socketPath]);
    expect(run.stdout).toMatch(/^Token +annex$/m);
    expect(service.requests.at(-1)).toMatchObject({ params: { terminal: 'till-2', role: 'till', token: 'annex' } });
    const list = await ctl(['terminal', 'list', '--socket', service.socketPath]);
    expect(list.stdout).toMatch(/till-1 +till +any\n.*till-2 +till +annex/);
  });
});

describe.concurrent('terminal', () => {
  it('enrol puts the secret into a new file of its owner, and nowhere else', async () => {
    const file = join(directory, 'till-1.secret');
    await using service = await FakeService.start({ script: enrols });
    const run = await ctl(['terminal', 'enrol', 'till-1', '--json', '--secret-file', file, '--socket', service.socketPath]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toEqual({ terminal: 'till-1', role: 'till', secretFile: file });
    expect(readFileSync(file, 'utf8')).toBe(`${secret}\n`);
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  it('enrol asks nothing of the service when the file exists already', async () => {
    const file = join(directory, 'taken.secret');
    await writeFile(file, 'the only copy');
    await using service = await FakeService.start({ script: enrols });
    const run = await ctl(['terminal', 'enrol', 'till-1', '--secret-file', file, '--socket', service.socketPath]);
    expect(run.status).toBe(2);
    expect(service.requests).toEqual([]);
    expect(readFileSync(file, 'utf8')).toBe('the only copy');
  });

  it('enrol asks nothing of the service where there is no room for the secret', async () => {
    const file = join(directory, 'no-room.secret');
    await using service = await FakeService.start({ script: enrols });
    const words = ['terminal', 'enrol', 'till-1', '--secret-file', file, '--socket', service.socketPath];
    const run = await runProgram('sh', ['-c', 'ulimit -f 0; exec "$@"', 'sh', process.execPath, ctlEntry, ...words]);
    expect(run.status).toBe(2);
    expect(run.stderr).toMatch(/^invalid-request: .*EFBIG/);
    expect(service.requests).toEqual([]);
    expect(existsSync(file)).toBe(false);
  });

  it.skipIf(!hasLimits)('enrol says that the terminal has no valid secret when it cannot be written all the same', async () => {
    const [file, pidFile] = [join(directory, 'lost.secret'), join(directory, 'lost.pid')];
    const script: Script = {
      'terminal.enrol': ({ terminal, role }) => {
        execFileSync(limitTool, ['--pid', readFileSync(pidFile, 'utf8').trim(), '--fsize=0']);
        return { terminal, role, secret };
      },
    };
    await using service = await FakeService.start({ script });
    const words = ['terminal', 'enrol', 'till-1', '--secret-file', file, '--socket', service.socketPath];
    const enrol = (...more: string[]): Promise<Run> =>
      runProgram('sh', ['-c', `echo $$ > '${pidFile}'; exec "$@"`, 'sh', process.execPath, ctlEntry, ...words, ...more]);
    const run = await enrol();
    expect(run.status).toBe(8);
    expect(run.stderr).toMatch(/^internal: till-1 has no valid secret now: .+ - Enrol it again/);
    expect(run.stdout + run.stderr).not.toContain(secret);
    expect(existsSync(file)).toBe(false);
    const shown = await enrol('--show');
    expect(shown.status).toBe(8);
    expect(shown.stdout).toContain(secret);
    expect(shown.stdout).not.toContain(file);
    expect(existsSync(file)).toBe(false);
  });

  it.each(['> /dev/full', '| true'])('enrol says so too when it was to be shown, and could not be: %s', async (where) => {
    await using service = await FakeService.start({ script: enrols });
    const words = `terminal enrol till-1 --show --socket '${service.socketPath}'`;
    const line = `{ sleep 0.1; '${process.execPath}' '${ctlEntry}' ${words}; echo $? >&2; } ${where}`;
    const run = await runProgram('sh', ['-c', line]);
    expect(run.stderr).toMatch(/^internal: till-1 has no valid secret now: .+\n8\n$/);
  });

  it('enrol says how it stands when the service answers nothing any more', async () => {
    const file = join(directory, 'unanswered.secret');
    const script: Script = {
      'terminal.enrol': () => {
        throw new HangUp();
      },
    };
    await using service = await FakeService.start({ script });
    const run = await ctl(['terminal', 'enrol', 'till-1', '--secret-file', file, '--socket', service.socketPath]);
    expect(run.status).toBe(6);
    expect(run.stderr).toMatch(/Enrol it again/);
    expect(existsSync(file)).toBe(false);
  });

  it('enrol leaves no empty file behind when it is refused', async () => {
    const file = join(directory, 'refused.secret');
    await using service = await FakeService.start({ script: {} });
    const run = await ctl(['terminal', 'enrol', 'till-1', '--secret-file', file, '--socket', service.socketPath]);
    expect(run.status).toBe(3);
    expect(existsSync(file)).toBe(false);
  });

  it('enrol shows the secret when told to', async () => {
    await using service = await FakeService.start({ script: enrols });
    const shown = await ctl(['terminal', 'enrol', 'erp', '--role', 'erp', '--show', '--socket', service.socketPath]);
    expect(shown.stdout).toContain(secret);
    expect(service.paramsOf('terminal.enrol')).toEqual({ terminal: 'erp', role: 'erp' });
  });

  it('enrol replaces one that is enrolled when told to', async () => {
    await using service = await FakeService.start({ script: enrols });
    await ctl(['terminal', 'enrol', 'erp', '--replace', '--show', '--socket', service.socketPath]);
    expect(service.paramsOf('terminal.enrol')).toEqual({ terminal: 'erp', role: 'till', replace: true });
    const json = await ctl(['terminal', 'enrol', 'erp', '--json', '--socket', service.socketPath]);
    expect(jsonOf(json)).toEqual({ terminal: 'erp', role: 'till', secret });
  });

  it('list and remove', async () => {
    await using service = await FakeService.start({ script: enrols });
    const list = await ctl(['terminal', 'list', '--socket', service.socketPath]);
    expect(list.stdout).toBe('Terminal  Role\ntill-1    till\n');
    const remove = await ctl(['terminal', 'remove', 'till-1', '--json', '--socket', service.socketPath]);
    expect(jsonOf(remove)).toEqual({ terminal: 'till-1' });
  });
});

describe.concurrent('provision', () => {
  const ticket: EnrolmentTicket = {
    format: 'ukey-enrolment-ticket/1',
    url: 'https://tickets.example',
    tlsCertificate: null,
    authorityFingerprint: 'ab'.repeat(32),
    code: 'once-only',
  };
  const script: Script = { 'token.provision': () => ({ standing: 'issuing-online', tokenId: 'ab'.repeat(16), keyWrapping: 'aes-kw' }) };

  it('sends ticket, label and both PINs, none of which is printed', async () => {
    const [ticketFile, soPinFile] = [join(directory, 'ticket.json'), join(directory, 'so-pin')];
    await writeFile(ticketFile, JSON.stringify(ticket));
    await writeFile(soPinFile, '87654321', { mode: 0o600 });
    await using service = await FakeService.start({ script });
    const args = ['provision', '--json', '--ticket', ticketFile, '--label', 'shop-7', '--pin-file', '-', '--so-pin-file', soPinFile];
    const run = await ctl([...args, '--socket', service.socketPath], { stdin: '12345678\n' });
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(service.paramsOf('token.provision')).toEqual({ label: 'shop-7', pin: '12345678', soPin: '87654321', ticket });
    expect(run.stdout).not.toMatch(/12345678|87654321|once-only/);
  });

  it('asks nothing of the service when the ticket is none, or both PINs would come from stdin', async () => {
    const [good, bad] = [join(directory, 'good.json'), join(directory, 'bad.json')];
    await writeFile(good, JSON.stringify(ticket));
    await writeFile(bad, JSON.stringify({ ...ticket, url: 'http://tickets.example' }));
    await using service = await FakeService.start({ script });
    const common = ['provision', '--json', '--label', 'x', '--socket', service.socketPath];
    const badTicket = await ctl([...common, '--ticket', bad], { stdin: '12345678\n' });
    expect(badTicket.status).toBe(2);
    expect(errorOf(badTicket)).toMatchObject({ field: 'url' });
    const twoPins = await ctl([...common, '--ticket', good], { stdin: '12345678\n87654321\n' });
    expect(twoPins.status).toBe(2);
    expect(service.requests).toEqual([]);
  });
});
