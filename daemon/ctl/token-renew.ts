// Owns: `ukeyctl token renew`: the certificate of the token's key is renewed now; the service does it by itself long before its end.
import type { Command } from '#ctl/command.ts';
import { adminOptions, withAdmin } from '#ctl/connection.ts';
import { facts } from '#ctl/screen.ts';

/** The service waits for the ticket server as long as for an upload. */
const waitMs = 150_000;

export const renew: Command = {
  kind: 'command',
  name: 'renew',
  summary: "renew the certificate of the token's key at the ticket server now",
  options: adminOptions,
  examples: ['token renew', 'token renew --json'],
  async run(given, screen) {
    const result = await withAdmin(given, (service) => service.call('token.renewCertificate', {}, waitMs));
    screen.answer(
      result,
      facts([
        ['Standing', result.standing],
        ['Token id', result.tokenId],
        ['Certificate', `was valid until ${result.previousExpires}, is now until ${result.expires}`],
      ]),
    );
  },
};
