// Owns: `ukeyctl store`: the commands that look after the token's FLASH and its mirror, each in a file of its own.
import type { CommandGroup } from '#ctl/command.ts';
import { restore } from '#ctl/store-restore.ts';

export const store: CommandGroup = {
  kind: 'group',
  name: 'store',
  summary: "look after the token's FLASH and its mirror",
  commands: [restore],
};
