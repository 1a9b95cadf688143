// The way to PostgreSQL: what docs/postgresql.md sets up, TLS, passwords.
import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { userInfo } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openPostgresDatabase } from '#server/database-postgres.ts';
import type { Log } from '#server/log.ts';
import { describePostgres, nameOf, postgresPrograms } from '#test/support/postgres.ts';

const page = path.resolve(import.meta.dirname, '../../docs/postgresql.md');
const password = 'geheim:\\x';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('there is no port');
  return address.port;
}

describePostgres('the way to PostgreSQL', (server) => {
  let logged = '';
  const log: Log = (_, event, fields) => (logged += `${event} ${JSON.stringify(fields)}\n`);
  const outcome = async (url: string): Promise<string> => {
    try {
      const database = await openPostgresDatabase(url, log);
      await database.setPublicUrl('https://x');
      const kept = await database.publicUrl();
      await database.close();
      return kept === 'https://x' ? 'open' : 'wrong';
    } catch (thrown) {
      expect(`${(thrown as Error).stack} ${JSON.stringify(thrown)}`).not.toContain('geheim');
      return (thrown as { code: string }).code;
    }
  };
  afterEach(() => {
    expect(logged).not.toContain('geheim');
    logged = '';
  });

  test('as the document sets it up: a role that owns its database and nothing else', async () => {
    const [, script = ''] = /```sh\n(.*?)```/s.exec(readFileSync(page, 'utf8')) ?? [];
    expect(script).toContain('CREATE DATABASE');
    const env = { ...process.env, PATH: `${postgresPrograms()}:${process.env['PATH']}`, PGHOST: server().folder, PGUSER: 'postgres' };
    execFileSync('sh', ['-ec', script], { env });
    expect(await outcome(`postgres:///ukeyd?host=${server().folder}&user=ukeyd-server`)).toBe('open');
    expect(server().sql('ukeyd', "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'ukeyd'")).toBe('9');
  });

  test('on the same machine, where the system says who asks: no password, and no other user’s role', async () => {
    const { username } = userInfo();
    const place = server().newDatabase();
    server().sql('postgres', `CREATE ROLE "${username}" LOGIN; CREATE ROLE somebody LOGIN`);
    server().sql('postgres', `ALTER DATABASE ${nameOf(place)} OWNER TO "${username}"`);
    writeFileSync(server().file('pg_hba.conf'), 'local all postgres trust\nlocal all all peer\n');
    server().reload();
    const asMyself = place.replace('&user=postgres', '');
    await expect.poll(async () => await outcome(`${asMyself}&user=somebody`)).toBe('internal');
    expect(await outcome(asMyself)).toBe('open');
  });

  describe('through the network', () => {
    let port: number;
    const file = (name: string): string => path.join(server().folder, name);
    const url = (parameters: string, host = 'localhost'): string =>
      `postgres://careful@${host}:${port}/${nameOf(place)}?sslmode=verify-full&${parameters}`;
    let place: string;

    beforeAll(async () => {
      port = await freePort();
      for (const name of ['server', 'stranger']) {
        const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
        const made = ['-keyout', file(`${name}.key`), '-out', file(`${name}.pem`), '-days', '2', ...subject];
        execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', ...made], {
          stdio: 'ignore',
        });
      }
      server().own(file('server.key'), 0o600);
      server().configure(
        `listen_addresses = '127.0.0.1'\nport = ${port}\nssl = on\nssl_cert_file = '${file('server.pem')}'\nssl_key_file = '${file('server.key')}'`,
      );
      writeFileSync(server().file('pg_hba.conf'), 'local all all trust\nhostssl all careful 127.0.0.1/32 scram-sha-256\n');
      await server().stop('fast');
      await server().start(port);
      server().sql('postgres', `CREATE ROLE careful LOGIN PASSWORD '${password}'`);
      place = server().newDatabase();
      server().sql('postgres', `ALTER DATABASE ${nameOf(place)} OWNER TO careful`);
    }, 60_000);
    beforeEach(() => {
      writeFileSync(file('passwords'), `other:*:*:*:x\nlocalhost:${port}:*:careful:${password.replaceAll(/[\\:]/g, '\\$&')}\n`);
      chmodSync(file('passwords'), 0o600);
    });
    afterAll(() => {
      for (const name of ['server.key', 'stranger.key', 'passwords']) rmSync(file(name), { force: true });
    });

    const right = (): string => url(`sslrootcert=${file('server.pem')}&passfile=${file('passwords')}`);

    test('a server that proves its name gets the password of the file', async () => {
      expect(await outcome(right())).toBe('open');
      process.env['PGPASSFILE'] = file('passwords');
      try {
        expect(await outcome(url(`sslrootcert=${file('server.pem')}`))).toBe('open');
      } finally {
        delete process.env['PGPASSFILE'];
      }
    });

    test.each([
      ['whom nobody vouches for', () => url(`passfile=${file('passwords')}`)],
      ['whom another one vouches for', () => url(`sslrootcert=${file('stranger.pem')}&passfile=${file('passwords')}`)],
      ['of another name', () => url(`sslrootcert=${file('server.pem')}&passfile=${file('passwords')}`, '127.0.0.1')],
    ])('a server %s gets nothing', async (_, at) => {
      expect(await outcome(at())).toBe('busy');
    });

    test('the password is asked of nothing but a file that is its owner’s and has a line for the place', async () => {
      process.env['PGPASSWORD'] = password;
      try {
        expect(await outcome(url(`sslrootcert=${file('server.pem')}`))).toBe('forbidden');
      } finally {
        delete process.env['PGPASSWORD'];
      }
      chmodSync(file('passwords'), 0o640);
      expect(await outcome(right())).toBe('forbidden');
      chmodSync(file('passwords'), 0o600);
      writeFileSync(file('passwords'), 'localhost:*:*:other:geheim\n');
      expect(await outcome(right())).toBe('forbidden');
      writeFileSync(file('passwords'), 'localhost:*:*:*:geheim-but-wrong\n');
      expect(await outcome(right())).toBe('internal');
      rmSync(file('passwords'));
      expect(await outcome(right())).toBe('forbidden');
      expect(await outcome(right().replace('sslmode=verify-full', 'sslmode=disable'))).toBe('internal'); // pg_hba: TLS alone
    });
  });
});
