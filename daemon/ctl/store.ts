// Owns: `ukeyctl store`: the commands that look after the token's FLASH and its mirror, each in a file of its own.
import type { CommandGroup } from '#ctl/command.ts';
import { checkCommand, scrub } from '#ctl/store-check.ts';
import { info } from '#ctl/store-info.ts';
import { restore } from '#ctl/store-restore.ts';
import { resumeCommand } from '#ctl/store-resume.ts';

export const store: CommandGroup = {
  kind: 'group',
  name: 'store',
  summary: "look after the token's FLASH and its mirror",
  commands: [info, checkCommand, scrub, resumeCommand, restore],
};
