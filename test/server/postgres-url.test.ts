// URLs of PostgreSQL databases, and password files.
import { describe, expect, test } from 'vitest';
import { parsePostgresUrl, passwordIn } from '#server/postgres-url.ts';
import { refusal } from '#test/support/refusal.ts';

const place = {
  host: 'db.example',
  port: 5432,
  database: 'tickets',
  user: 'ukeyd',
  tls: 'verified',
  rootCertFile: null,
  passFile: null,
} as const;

describe('a URL', () => {
  test('names a server of the network, which must prove itself', () => {
    expect(parsePostgresUrl('postgres://ukeyd@db.example/tickets')).toEqual(place);
    expect(parsePostgresUrl('postgresql://u%40k@db.example:6432/a%20b?sslmode=verify-full&sslrootcert=/ca.pem&passfile=/p')).toEqual({
      ...{ host: 'db.example', port: 6432, database: 'a b', user: 'u@k' },
      ...{ tls: 'verified', rootCertFile: '/ca.pem', passFile: '/p' },
    });
    expect(parsePostgresUrl('postgres://[2001:db8::1]/t')).toMatchObject({ host: '2001:db8::1', tls: 'verified' });
  });

  test('names a server of this machine, to which nobody else listens', () => {
    expect(parsePostgresUrl('postgres:///tickets')).toMatchObject({ host: '/run/postgresql', user: null, tls: 'none' });
    expect(parsePostgresUrl('postgres:///t?host=/tmp/x&user=me&port=5433')).toMatchObject({ host: '/tmp/x', user: 'me', port: 5433 });
    for (const host of ['localhost', '127.0.0.1', '[::1]']) expect(parsePostgresUrl(`postgres://${host}/t`).tls).toBe('none');
  });

  test('may leave TLS out only in as many words', () => {
    expect(parsePostgresUrl('postgres://db.example/t?sslmode=disable').tls).toBe('none');
    for (const mode of ['prefer', 'require', 'allow', 'verify-ca', ''])
      refusal(() => parsePostgresUrl(`postgres://db.example/t?sslmode=${mode}`));
  });

  test('with a password is refused, says where it belongs, and is not repeated', () => {
    for (const url of ['postgres://u:geheim@h/t', 'postgres://h/t?password=geheim', 'postgres:///t?password=geheim']) {
      const refused = refusal(() => parsePostgresUrl(url));
      expect(refused.field).toBe('database');
      expect(refused.message).toContain('passfile=');
      expect(`${refused.stack}`).not.toContain('geheim');
    }
  });

  test('that is not understood whole is refused', () => {
    for (const url of [
      '',
      'tickets.db',
      'mysql://h/t',
      'postgres://h',
      'postgres://h/',
      'postgres://h/a/b',
      'postgres://h,i/t',
      'postgres:///t?host=/a,/b',
      'postgres://h/t?port=0',
      'postgres://h/t?port=x',
      'postgres://h/t?sslcert=x',
      'postgres://h/t?options=-c%20fsync%3Doff',
    ])
      refusal(() => parsePostgresUrl(url), 'invalid-request', url);
  });
});

describe('a password file', () => {
  const found = (text: string, change: Partial<typeof place | { host: string }> = {}) => passwordIn(text, { ...place, ...change });

  test('gives the password of the first line that fits', () => {
    expect(
      found('other:5432:tickets:ukeyd:no\n# db.example:5432:tickets:ukeyd:comment\ndb.example:5432:tickets:ukeyd:yes\n*:*:*:*:late'),
    ).toBe('yes');
    expect(found('*:*:*:*:any')).toBe('any');
    expect(found('db.example:*:*:ukeyd:a:b')).toBe('a:b');
    expect(found('db.example:*:*:ukeyd:a\\:b\\\\c')).toBe('a:b\\c');
    expect(found('*:*:*:*:with\r\n')).toBe('with');
  });

  test('calls a local socket localhost, or by its folder', () => {
    expect(found('localhost:*:*:*:mine', { host: '/run/postgresql' })).toBe('mine');
    expect(found('/run/postgresql:*:*:*:mine', { host: '/run/postgresql' })).toBe('mine');
    expect(found('/tmp:*:*:*:mine', { host: '/run/postgresql' })).toBeNull();
  });

  test('without a line that fits gives nothing', () => {
    for (const text of [
      '',
      '\n',
      'db.example',
      'db.example:5432:tickets:ukeyd',
      'db.example:5433:tickets:ukeyd:x',
      'db.example:5432:t:ukeyd:x',
    ])
      expect(found(text), text).toBeNull();
  });
});
