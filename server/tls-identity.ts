// Owns: the key and certificate that the server's TLS shows: signed by the authority, for the hosts it is reached under.
// Kept in `tls.json` (0600); made anew when it nears its end, when the hosts change or when another authority signed it. Charters pin the
// authority's certificate, not this one, so renewal needs no new charter.
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { base64Text, check, z } from '#ipc-schema/schema.ts';
import { type Authority, newPair } from './authority.ts';
import { readIfThere, replaceFile } from './key-file.ts';

const dayMs = 86_400_000;
const validDays = 397;
const renewBeforeDays = 30;
const localHosts = ['localhost', '127.0.0.1', '::1'];

const fileSchema = z.strictObject({
  format: z.literal('ukey-tls/1'),
  key: base64Text,
  certificate: base64Text,
  hosts: z.array(z.string()),
});

/** PEM, as node:https takes it. */
export interface TlsIdentity {
  readonly key: string;
  readonly cert: string;
}

/** The identity that is there, or a new one when it may no longer be used. */
export async function openTlsIdentity(
  directory: string,
  authority: Authority,
  hosts: readonly string[],
  nowMs: number,
): Promise<TlsIdentity> {
  const path = join(directory, 'tls.json');
  const wanted = [...new Set([...localHosts, ...hosts.map(checkHost)])];
  const bytes = readIfThere(path);
  const held = bytes === null ? null : check(fileSchema, decodeJson(bytes), 'internal');
  if (held !== null && isUsable(held, authority, wanted, nowMs)) return identityOf(held);
  const { privateKey, publicKey } = newPair();
  const validity = { fromMs: nowMs - dayMs, untilMs: nowMs + validDays * dayMs };
  const certificate = await authority.certifyTls(publicKey.export({ type: 'spki', format: 'der' }), wanted, validity);
  const made: z.infer<typeof fileSchema> = {
    format: 'ukey-tls/1',
    key: privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64'),
    certificate: Buffer.from(certificate).toString('base64'),
    hosts: wanted,
  };
  replaceFile(path, Buffer.from(`${JSON.stringify(made, null, 2)}\n`, 'utf8'));
  return identityOf(made);
}

function isUsable(held: z.infer<typeof fileSchema>, authority: Authority, hosts: readonly string[], nowMs: number): boolean {
  const certificate = new X509Certificate(Buffer.from(held.certificate, 'base64'));
  return (
    certificate.verify(authority.publicKey) &&
    certificate.validToDate.getTime() - nowMs > renewBeforeDays * dayMs &&
    certificate.validFromDate.getTime() <= nowMs &&
    hosts.every((host) => held.hosts.includes(host))
  );
}

function identityOf(held: z.infer<typeof fileSchema>): TlsIdentity {
  const key = createPrivateKey({ key: Buffer.from(held.key, 'base64'), format: 'der', type: 'pkcs8' });
  return {
    key: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
    cert: new X509Certificate(Buffer.from(held.certificate, 'base64')).toString(),
  };
}

function checkHost(host: string): string {
  const bare = host.replace(/^\[(.*)\]$/, '$1');
  if (isIP(bare) !== 0 || /^(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*$/i.test(bare))
    return bare.toLowerCase();
  throw new UkeyError('invalid-request', 'the public URL names no host that a certificate can hold', { field: 'publicUrl' });
}
