import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { ctl, ctlOnTerminal, errorOf, hasTerminal, jsonOf } from '#test/support/ctl.ts';
import { FakeService, HangUp, type Script } from '#test/support/fake-service.ts';
import { statusAnswer, tokenAnswer } from './answers.ts';

const pin = 'k0rrekt-Pferd';
const accepted = { standing: 'issuing-online', triesLeft: 3, checked: true } as const;
const script: Script = {
  'session.login': (params) => {
    if (params.pin !== pin) throw new UkeyError('pin-incorrect', 'the PIN is wrong');
    return accepted;
  },
  'session.logout': () => ({ standing: 'locked' }),
  'service.status': () => ({ ...statusAnswer, token: { ...tokenAnswer, triesLeft: 2, pinState: 'low' } }),
};

let directory: string;
let pinFile: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-ctl-'));
  pinFile = join(directory, 'pin');
  await writeFile(pinFile, `${pin}\n`, { mode: 0o600 });
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe.concurrent('login', () => {
  it.each([
    ['a file', () => ['--pin-file', pinFile], ''],
    ['stdin, asked for', () => ['--pin-file', '-'], `${pin}\n`],
    ['stdin, when it is no terminal', () => [], `${pin}\r\nand a second line\n`],
    ['stdin without a line end', () => [], pin],
  ])('takes the PIN from %s', async (_, args, stdin) => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['login', '--json', '--socket', service.socketPath, ...args()], { stdin });
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toEqual(accepted);
    expect(service.paramsOf('session.login')).toEqual({ pin });
    expect(run.stdout).not.toContain(pin);
  });

  it('shows how many tries are left when the PIN is wrong, and does not repeat the PIN', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['login', '--json', '--socket', service.socketPath], { stdin: 'wr0ng-PIN' });
    expect(run.status).toBe(3);
    expect(errorOf(run)).toMatchObject({ code: 'pin-incorrect', exit: 'refused', triesLeft: 2, pinState: 'low' });
    expect(run.stderr).toContain('2 tries left');
    expect(run.stdout + run.stderr).not.toContain('wr0ng-PIN');
  });

  it('says so when the token was open already and the PIN was not checked', async () => {
    const open: Script = { ...script, 'session.login': () => ({ ...accepted, checked: false }) };
    await using service = await FakeService.start({ script: open });
    const run = await ctl(['login', '--json', '--socket', service.socketPath], { stdin: 'wr0ng-PIN' });
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toMatchObject({ checked: false });
    expect(run.stderr).toContain('not checked');
  });

  it('spends the last try only when told to', async () => {
    const careful: Script = {
      ...script,
      'session.login': (params) => {
        if (params.useLastTry !== true) throw new UkeyError('pin-last-try', 'one try is left');
        return accepted;
      },
    };
    await using service = await FakeService.start({ script: careful });
    const args = ['login', '--json', '--socket', service.socketPath, '--pin-file', pinFile];
    const refused = await ctl(args);
    expect(errorOf(refused)).toMatchObject({ code: 'pin-last-try', triesLeft: 2 });
    const dared = await ctl([...args, '--use-last-try']);
    expect(dared.status).toBe(0);
  });

  it.each([
    ['empty', ''],
    ['an empty line', '\n'],
    ['too long', 'x'.repeat(300)],
    ['not UTF-8', Buffer.from([0x31, 0xff, 0x32])],
    ['with a control character', '12\t34'],
  ])('does not send a PIN that is none: %s', async (_, stdin) => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['login', '--json', '--socket', service.socketPath], { stdin });
    expect(run.status).toBe(2);
    expect(service.requests).toEqual([]);
  });

  it('warns when others may read the PIN file', async () => {
    const open = join(directory, 'open-pin');
    await writeFile(open, pin);
    await chmod(open, 0o644);
    await using service = await FakeService.start({ script });
    const run = await ctl(['login', '--json', '--socket', service.socketPath, '--pin-file', open]);
    expect(run.status).toBe(0);
    expect(run.stderr).toContain('chmod 600');
  });

  it('says that the outcome is unknown, with status 6, when no answer comes', async () => {
    await using service = await FakeService.start({
      script: {
        'session.login': () => {
          throw new HangUp();
        },
      },
    });
    const run = await ctl(['login', '--json', '--socket', service.socketPath, '--pin-file', pinFile]);
    expect(run.status).toBe(6);
    expect(errorOf(run)).toMatchObject({ code: 'unknown-outcome', exit: 'unknown' });
  });
});

if (!hasTerminal) console.warn('SKIPPED: prompts need script(1) of util-linux');
describe.skipIf(!hasTerminal).concurrent('on a terminal login asks for the PIN', () => {
  it('and shows nothing of it, erasing included', async () => {
    await using service = await FakeService.start({ script });
    const typed = `wrong\u0015x\u007f${pin}é\u007f\r`;
    const run = await ctlOnTerminal(['login', '--socket', service.socketPath], [['PIN: ', typed]]);
    expect(run.status).toBe(0);
    expect(service.paramsOf('session.login')).toEqual({ pin });
    expect(run.stdout).toContain('issuing-online');
    expect(run.stdout).not.toContain(pin);
    expect(run.stdout).not.toContain('wrong');
  });

  it('and ends at Ctrl-C without having asked the service', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctlOnTerminal(['login', '--socket', service.socketPath], [['PIN: ', `${pin}\u0003`]]);
    expect(run.status).toBe(130);
    expect(service.requests).toEqual([]);
    expect(run.stdout).not.toContain(pin);
  });
});

describe.skipIf(!hasTerminal).concurrent('on a terminal provision asks for a new PIN twice', () => {
  const provisions: Script = { 'token.provision': () => ({ standing: 'issuing-online', tokenId: 'ab'.repeat(16), keyWrapping: 'aes-kw' }) };
  const ticket = {
    format: 'ukey-enrolment-ticket/1',
    url: 'https://tickets.example',
    tlsCertificate: null,
    authorityFingerprint: 'ab'.repeat(32),
    code: 'once-only',
  };

  it.each([
    ['and goes on when both are the same', '12345678', 0],
    ['and stops when they differ', '12345679', 2],
  ])('%s', async (_, again, status) => {
    const ticketFile = join(directory, `ticket-${again}.json`);
    await writeFile(ticketFile, JSON.stringify(ticket));
    await using service = await FakeService.start({ script: provisions });
    const run = await ctlOnTerminal(
      ['provision', '--ticket', ticketFile, '--label', 'shop-7', '--socket', service.socketPath],
      [
        ['new PIN: ', '12345678\r'],
        ['new PIN again: ', `${again}\r`],
        ['SO-PIN: ', '87654321\r'],
      ],
    );
    expect(run.status).toBe(status);
    expect(service.asked).toEqual(status === 0 ? ['token.provision'] : []);
    expect(run.stdout).not.toMatch(/1234567|8765/);
  });
});

describe('logout', () => {
  it('locks', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['logout', '--json', '--socket', service.socketPath]);
    expect(jsonOf(run)).toEqual({ standing: 'locked' });
    expect(service.asked).toEqual(['session.logout']);
  });
});

describe.concurrent('pin', () => {
  const done = { standing: 'issuing-online', triesLeft: 3, pinState: 'ok', storedPin: 'wrong' } as const;
  const changing: Script = {
    ...script,
    'session.changePin': (params) => {
      if (params.pin !== pin) throw new UkeyError('pin-incorrect', 'the PIN is wrong');
      return done;
    },
    'session.unblock': () => ({ ...done, standing: 'locked' }),
  };
  const newPinFile = async (): Promise<string> => {
    const file = join(directory, 'new-pin');
    await writeFile(file, 'fre5h-PIN\n', { mode: 0o600 });
    return file;
  };

  it('change tells the tries before it asks, and that the stored PIN is stale', async () => {
    await using service = await FakeService.start({ script: changing });
    const args = ['pin', 'change', '--json', '--socket', service.socketPath, '--pin-file', pinFile, '--new-pin-file', await newPinFile()];
    const run = await ctl(args);
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toEqual(done);
    expect(service.paramsOf('session.changePin')).toEqual({ pin, newPin: 'fre5h-PIN' });
    expect(run.stderr).toContain('2 tries left');
    expect(run.stderr).toContain('PIN file');
    expect(run.stdout + run.stderr).not.toMatch(/fre5h-PIN|k0rrekt/);
  });

  it('change sends no new PIN that is too short or too long', async () => {
    await using service = await FakeService.start({ script: changing });
    for (const fresh of ['123', 'x'.repeat(65)]) {
      const file = join(directory, `new-pin-${fresh.length}`);
      await writeFile(file, fresh, { mode: 0o600 });
      const run = await ctl(['pin', 'change', '--json', '--socket', service.socketPath, '--pin-file', pinFile, '--new-pin-file', file]);
      expect(run.status).toBe(2);
      expect(errorOf(run)).toMatchObject({ code: 'invalid-request', field: '--new-pin-file' });
    }
    expect(service.paramsOf('session.changePin')).toBeUndefined();
  });

  it('change shows what is left when the old PIN is wrong', async () => {
    await using service = await FakeService.start({ script: changing });
    const run = await ctl(['pin', 'change', '--json', '--socket', service.socketPath, '--new-pin-file', await newPinFile()], {
      stdin: 'wr0ng-PIN',
    });
    expect(run.status).toBe(3);
    expect(errorOf(run)).toMatchObject({ code: 'pin-incorrect', triesLeft: 2 });
    expect(run.stdout + run.stderr).not.toContain('wr0ng-PIN');
  });

  it('unblock takes the SO-PIN and the new PIN from files', async () => {
    await using service = await FakeService.start({ script: changing });
    const args = [
      'pin',
      'unblock',
      '--json',
      '--socket',
      service.socketPath,
      '--so-pin-file',
      pinFile,
      '--new-pin-file',
      await newPinFile(),
    ];
    const run = await ctl(args);
    expect(run.status).toBe(0);
    expect(service.paramsOf('session.unblock')).toEqual({ soPin: pin, newPin: 'fre5h-PIN' });
  });

  it('has no option that would hold a PIN', async () => {
    const run = await ctl(['pin', 'change', '--pin', '1234']);
    expect(run.status).toBe(2);
    expect(run.stdout + run.stderr).not.toContain('1234');
  });
});
