/** What commands about snapshots ask alike. */
import type { Restored } from '../../api/snapshot.ts';
import type { OptionSpecs } from '../command-shape.ts';

export const PAUSE_OK = {
  type: 'flag',
  help: 'let the guest stand still for as long as its disks are copied, where blocks are not shared',
} as const satisfies OptionSpecs[string];

export const RESTORE_OPTIONS = {
  force: { type: 'flag', short: 'f', help: 'also a VM that runs: shut it down, and start it again afterwards' },
  start: { type: 'off', help: 'leave a VM stopped that ran' },
} as const satisfies OptionSpecs;

/** What has back what a restore put aside; one that runs is shut down for that. */
export function undoCommand({ vm: { name, state } }: Pick<Restored, 'vm'>): string {
  return `banger snapshot undo ${name}${state === 'running' ? ' --force' : ''}`;
}

/** The body of a request that puts disks back. */
export function restoreRequest({ force, start: noStart }: { force: boolean; start: boolean }): {
  force?: boolean;
  start?: boolean;
} {
  return { ...(force ? { force } : {}), ...(noStart ? { start: false } : {}) };
}
