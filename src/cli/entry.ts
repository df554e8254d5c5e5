/** One line of the command table, and the nouns that two-word commands begin with. */
import type { CommandShape } from './command-shape.ts';

/** @typeParam C what is known of the command once it is loaded */
export interface Entry<C extends CommandShape = CommandShape> {
  /** noun and verb, or one word */
  path: string;
  /** other ways to write it; the first of one word is the daily one */
  aliases: readonly string[];
  /** sentence without its final dot */
  summary: string;
  /** where it stands in `banger --help`; a command without a group is found below its noun only */
  group?: Group;
  load(): Promise<{ default: C }>;
}

export type Group = 'Daily commands' | 'Setting up and looking';

/** What the first words of two-word commands are about. */
export const NOUNS: Record<string, string> = {
  vm: 'Virtual machines',
  trash: 'Deleted virtual machines that can still be had back',
  bundle: 'What virtual machines boot from',
  dns: 'Names of virtual machines',
  image: 'Images: root file systems of your own, built from recipes',
  disk: 'Disks of virtual machines, and work disks that were kept',
  snapshot: 'States of the disks of a VM that can be had back',
  storage: 'Where disks lie, and how much room there is',
  operation: 'Long actions: what runs now and what ran',
  vmm: 'Firecracker, which runs virtual machines where KVM works',
  daemon: 'bangerd, which owns the virtual machines',
  config: 'Settings and where they come from',
};

/** All names of a command. */
export function namesOf(entry: Entry): string[] {
  return [entry.path, ...entry.aliases];
}
