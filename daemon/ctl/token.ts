// Owns: the group `ukeyctl token`: which commands it has.
import type { CommandGroup } from '#ctl/command.ts';
import { probe } from '#ctl/token-probe.ts';
import { renew } from '#ctl/token-renew.ts';
import { replace } from '#ctl/token-replace.ts';

export const token: CommandGroup = {
  kind: 'group',
  name: 'token',
  summary: 'tokens, their modules, and what takes their place',
  commands: [probe, renew, replace],
};
