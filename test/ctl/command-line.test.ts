import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exitCodes } from '#ctl/exit-codes.ts';
import { ctl, errorOf, jsonOf, type Run, runProgram } from '#test/support/ctl.ts';
import { FakeService } from '#test/support/fake-service.ts';
import { statusAnswer } from './answers.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-ctl-'));
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

const lockedToken = { token: 'main', tokenId: null, issuer: null, standing: 'locked', reason: 'no PIN yet', action: 'Log in.' } as const;

const commands = [
  'status',
  'login',
  'logout',
  'issue',
  'get',
  'backlog',
  'verify',
  'provision',
  'terminal enrol',
  'terminal list',
  'terminal remove',
];

describe.concurrent('help', () => {
  it('of ukeyctl names every command and every exit status', async () => {
    const run = await ctl(['--help']);
    expect(run.status).toBe(0);
    for (const command of commands) expect(run.stdout).toContain(command.split(' ')[0]);
    for (const { status, meaning } of Object.values(exitCodes)) expect(run.stdout).toContain(`${status}  ${meaning}`);
  });

  it.each(commands)('of %s shows examples and --json, and asks nobody', async (command) => {
    const run = await ctl([...command.split(' '), '--help'], { env: { UKEYD_ADMIN_SOCKET: '/nowhere' } });
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(run.stdout).toContain('Examples:');
    expect(run.stdout).toContain(`  ukeyctl ${command}`);
    expect(run.stdout).toContain('--json');
  });
});

describe.concurrent('run by npm', () => {
  it('takes the names of files from the folder where it was typed', async () => {
    await writeFile(join(directory, 'typed.json'), '{"template": "retail"}');
    const words = ['issue', 'typed.json', '--terminal', 'till-1', '--secret-file', 'none', '--json'];
    const env = { INIT_CWD: directory, npm_lifecycle_script: 'node daemon/ctl.ts' };
    expect(errorOf(await ctl(words, { env }))).toMatchObject({ field: 'key' });
    expect(errorOf(await ctl(words))).toMatchObject({ field: '<file>' });
  });
});

describe.concurrent('a command line that is not right ends with status 2 and says why on stderr', () => {
  it.each([
    [[]],
    [['nonsense']],
    [['terminal']],
    [['status', 'too', 'much']],
    [['status', '--nonsense']],
    [['status', '--socket']],
    [['issue']],
    [['get']],
    [['get', '--number', 'A1', '--sequence', '1']],
    [['get', '--sequence', 'one']],
    [['verify']],
    [['verify', 'a', '--store', 'b']],
    [['verify', '/nonexistent/file']],
    [['verify', '--store', 'flash.img']],
    [['terminal', 'enrol', 'till-1', '--role', 'admin', '--show']],
    [['status', '--terminal', 'till-1']],
    [['provision', '--label', 'x']],
  ])('%j', async (args) => {
    const run = await ctl([...args, '--json']);
    expect(run.status).toBe(2);
    expect(run.stderr).toMatch(/^invalid-request: .+ - .+\n$/);
    expect(errorOf(run)).toMatchObject({ code: 'invalid-request', exit: 'usage', status: 2 });
  });

  it('without --json prints nothing on stdout, and needs to be told where a secret shall go', async () => {
    const run = await ctl(['terminal', 'enrol', 'till-1']);
    expect(run).toMatchObject({ status: 2, stdout: '' });
    expect(run.stderr).toMatch(/^invalid-request: .+ - .+\n$/);
  });

  it.each([
    [['login', '--pin=314159']],
    [['login', '314159']],
    [['login', '--pin', '314159']],
    [['314159']],
    [["a'314159"]],
    [['a\n314159']],
    [['login', '-p314159']],
    [['login', '-p:314159']],
    [['login', '--pin:314159']],
    [['login', '--pin-314159']],
    [['login', '--pin314159']],
    [['login', '--314159']],
    [['login', "--'314159"]],
    [['login', '--pin\n314159']],
    [['login', '--pin_file=314159']],
  ])('and never repeats what may have been a PIN: %j', async (args) => {
    const run = await ctl([...args, '--json']);
    expect(run.status).toBe(2);
    expect(run.stdout + run.stderr).not.toContain('14159');
  });

  it('names the option or command that it does not know', async () => {
    expect(errorOf(await ctl(['login', '--pim-file=x', '--json']))['message']).toContain("'--pim-file'");
    expect(errorOf(await ctl(['login', '-pX', '--json']))['message']).toContain("'-p'");
    expect(errorOf(await ctl(['lofin', '--json']))['message']).toContain("'lofin'");
  });
});

describe.concurrent('reaching the service', () => {
  it('fails with status 4 where there is no socket, no listener, or no socket but a file', async () => {
    await writeFile(join(directory, 'file'), '');
    for (const name of ['absent', 'file']) {
      const run = await ctl(['status', '--json', '--socket', join(directory, name)]);
      expect(run.status).toBe(4);
      expect(errorOf(run)).toMatchObject({ code: 'busy', exit: 'unreachable', field: '--socket' });
    }
  });

  it('goes to $UKEYD_ADMIN_SOCKET when no socket is named', async () => {
    await using service = await FakeService.start({ script: { 'service.status': () => statusAnswer } });
    const run = await ctl(['status', '--json'], { env: { UKEYD_ADMIN_SOCKET: service.socketPath } });
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toEqual(statusAnswer);
  });

  it('as a terminal goes to $UKEYD_SOCKET and proves the secret', async () => {
    const secret = Buffer.alloc(32, 0xa5);
    const secretFile = join(directory, 'secret');
    await writeFile(secretFile, `${secret.toString('hex')}\n`, { mode: 0o600 });
    await using service = await FakeService.start({ script: { 'service.status': () => statusAnswer }, terminals: { 'till-1': secret } });
    const env = { UKEYD_SOCKET: service.socketPath, UKEYD_ADMIN_SOCKET: '/nowhere' };
    const run = await ctl(['status', '--json', '--terminal', 'till-1', '--secret-file', secretFile], { env });
    expect(run).toMatchObject({ status: 0, stderr: '' });
    const stranger = await ctl(['status', '--json', '--terminal', 'till-2', '--secret-file', secretFile], { env });
    expect(stranger.status).toBe(3);
    expect(errorOf(stranger)).toMatchObject({ code: 'unauthenticated', exit: 'refused' });
    expect(JSON.stringify([run, stranger, service.requests])).not.toContain(secret.toString('hex'));
  });

  it('sends nothing to a service that does not know the secret', async () => {
    const secret = Buffer.alloc(32, 0xa5);
    const secretFile = join(directory, 'secret-2');
    await writeFile(secretFile, secret.toString('hex'), { mode: 0o600 });
    await using service = await FakeService.start({ script: {}, terminals: { 'till-1': secret }, isImpostor: true });
    const run = await ctl(['status', '--json', '--socket', service.socketPath, '--terminal', 'till-1', '--secret-file', secretFile]);
    expect(errorOf(run)).toMatchObject({ code: 'unauthenticated' });
    expect(service.asked).toEqual([]);
  });

  it('takes a secret file only when it holds a secret', async () => {
    const secretFile = join(directory, 'no-secret');
    await writeFile(secretFile, 'open sesame', { mode: 0o600 });
    const run = await ctl(['status', '--json', '--terminal', 'till-1', '--secret-file', secretFile]);
    expect(run.status).toBe(2);
    expect(run.stdout + run.stderr).not.toContain('sesame');
  });
});

describe.concurrent('what is printed', () => {
  it('is the answer alone through npm, which prints nothing of its own', async () => {
    await using service = await FakeService.start({ script: { 'service.status': () => statusAnswer } });
    const direct = await ctl(['status', '--socket', service.socketPath]);
    const npm = await runProgram('npm', ['run', '-s', 'ukeyctl', '--', 'status', '--socket', service.socketPath], {
      env: { HOME: directory, npm_config_update_notifier: 'false' },
    });
    expect(npm).toEqual(direct);
    expect(direct.stderr).toBe('');
  });

  it('holds no control character that a service put in', async () => {
    const reason = 'all is well\u001b[2J\u009b31m\u202e';
    await using service = await FakeService.start({ script: { 'service.status': () => ({ ...statusAnswer, reason }) } });
    const run = await ctl(['status', '--socket', service.socketPath]);
    expect(run.stdout).toContain('all is well');
    expect(run.stdout).not.toMatch(/[^\P{Cc}\n]|\u202e/u);
  });

  it('may be cut off by its reader', async () => {
    await using service = await FakeService.start({ script: { 'service.status': () => statusAnswer } });
    const run = await runProgram('sh', ['-c', '"$0" daemon/ctl.ts status --socket "$1" | true', process.execPath, service.socketPath]);
    expect(run).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  it.each([
    ['its answer', ''],
    ['its answer as JSON', '--json'],
    ['its answer and what it says besides', '--json 2>&1'],
  ])('keeps its status where nobody reads %s', async (_name, more) => {
    await using service = await FakeService.start({ script: { 'service.tokens': () => ({ tokens: [lockedToken] }) } });
    const command = (words: string): Promise<Run> => {
      const line = `{ sleep 0.1; '${process.execPath}' daemon/ctl.ts ${words} ${more}; echo $? >&3; } 3>&2 | true`;
      return runProgram('sh', ['-c', line]);
    };
    expect((await command(`health --socket ${service.socketPath}`)).stderr).toMatch(/(^|\n)7\n$/);
    expect((await command(`status --socket ${service.socketPath}`)).stderr).toMatch(/(^|\n)3\n$/);
    expect((await command('verify package.json')).stderr).toMatch(/(^|\n)5\n$/);
    expect((await command('nonsense')).stderr).toMatch(/(^|\n)2\n$/);
  });

  it.each([['status'], ['status --json'], ['--help']])('is a failure where it cannot be written: %s', async (words) => {
    await using service = await FakeService.start({ script: { 'service.status': () => statusAnswer } });
    const line = `'${process.execPath}' daemon/ctl.ts ${words} --socket '${service.socketPath}' > /dev/full`;
    const run = await runProgram('sh', ['-c', line]);
    expect(run.status).toBe(1);
    expect(run.stderr).toMatch(/^internal: .*ENOSPC.* - .+\n$/);
  });
});
