// Owns: `ukeyctl store`: the commands that look after the token's FLASH and its mirror, each in a file of its own.
import type { CommandGroup } from '#ctl/command.ts';

export const store: CommandGroup = {
  kind: 'group',
  name: 'store',
  summary: "look after the token's FLASH and its mirror",
  commands: [],
};
