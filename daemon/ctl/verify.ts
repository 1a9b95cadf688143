// Owns: `ukeyctl verify`: which of its four things to verify: a document's evidence, an export, a whole store, or a server's export.
// Must not: load the token's code for anything but a store: who checks a receipt has no token.
import type { Command } from '#ctl/command.ts';
import { usage } from '#ctl/exit-codes.ts';
import { runVerifyEvidence } from '#ctl/verify-evidence.ts';
import { runVerifyExport } from '#ctl/verify-export.ts';
import { runVerifyOwnExport } from '#ctl/verify-own-export.ts';

export const verify: Command = {
  kind: 'command',
  name: 'verify',
  summary: "verify a document's evidence, an export, a whole store, or a server's export",
  arguments: [{ name: '[file]', description: 'an evidence file, a file with a QR text, or a QR text itself; - is stdin' }],
  options: [
    { flags: '--authority <certificate>', description: "the authority's certificate (PEM or DER file) or its SHA-256 fingerprint" },
    { flags: '--certificate <file>', description: "the token's certificate (PEM or DER), for a QR text" },
    { flags: '--export <file>', description: 'verify what `ukeyctl export` wrote, JSON Lines or TAR; - is stdin' },
    { flags: '--store <path>', description: 'verify a whole store: block device or image; the service may run' },
    {
      flags: '--config <file>',
      description: "of --store: take module, token and store from the service's configuration (its environment it does not give)",
    },
    {
      flags: '--module <path>',
      description: 'of --store: PKCS#11 library of the token; for SoftHSM2 set SOFTHSM2_CONF as the service has it',
    },
    { flags: '--soft-token <file>', description: 'of --store: key file of the embedded soft token' },
    { flags: '--token <name>', description: 'of --config: which token, where it has several' },
    { flags: '--token-label <label>', description: 'of --store: which token, when the module shows several' },
    {
      flags: '--pin-file <file>',
      description: 'of --store: read the PIN from this file; - is stdin (default: a prompt on a terminal, else stdin)',
    },
    {
      flags: '--server-export <file>',
      description:
        'verify what a ticket server gives out, fetched as docs/provisioning.md says (pages of batches, or JSON Lines); - is stdin',
    },
  ],
  examples: [
    'verify invoice.json --authority authority.pem',
    "verify 'https://example.org/v#AAAA...' --certificate token.pem --authority authority.pem",
    'verify --export march.tar --authority authority.pem',
    'verify --store /dev/sdb --module /usr/lib/softhsm/libsofthsm2.so --pin-file pin',
    'verify --config /etc/ukeyd/ukeyd.toml --pin-file pin --json',
    'verify --server-export shop-7.cbor --certificate shop-7.der --authority authority.pem',
  ],
  async run(given, screen) {
    const source = given.argument(0);
    const serverExport = given.text('serverExport');
    const wantsStore = given.text('store') !== undefined || given.text('config') !== undefined;
    const ownExport = given.text('export');
    if ([source, serverExport, ownExport, wantsStore || undefined].filter((one) => one !== undefined).length !== 1)
      throw usage('exactly one of <file>, --export, --store (or --config) and --server-export is needed');
    if (source !== undefined) return runVerifyEvidence(source, given, screen);
    if (ownExport !== undefined) return runVerifyOwnExport(ownExport, given, screen);
    if (serverExport !== undefined) return runVerifyExport(serverExport, given, screen);
    const { runVerifyStore } = await import('#ctl/verify-store.ts');
    return runVerifyStore(given, screen);
  },
};
