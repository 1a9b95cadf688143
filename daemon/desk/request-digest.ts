// Owns: the digest that says whether two requests with one key have the same content. Pure.
// SHA-256 over the request as JSON with members in code-unit order, without `wait` and `brief` (they ask how to be answered, not what to issue); base64url.
import { sha256 } from '#ipc-schema/merkle.ts';

export function requestDigest(request: Readonly<Record<string, unknown>>): string {
  const { wait: _wait, brief: _brief, ...content } = request;
  return Buffer.from(sha256(Buffer.from(orderedJson(content)))).toString('base64url');
}

function orderedJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(orderedJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  members.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${orderedJson(member)}`).join(',')}}`;
}
