/** Ending a program with all it started: its process group is asked, then killed, as root where it is not ours. */
import { readdirSync, readFileSync } from 'node:fs';
import { systemCode } from '../errors.ts';
import type { ForeignKill } from './processes.ts';

/** What a program gets to end by SIGTERM; one that passes signals on, as sudo does, needs a fraction of it. */
const TERM_GRACE_MS = 200;

/** A program of ours that leads a group of its own. */
export interface GroupLeader {
  /** its process id, which is the group's too */
  pid: number;
  /** whether its end was seen; until then its number belongs to nobody else */
  hasEnded(): boolean;
  /** how members are ended that this user may not signal; they are left alone otherwise */
  foreignKill?: ForeignKill | undefined;
}

/**
 * Begins to end a group: SIGTERM now, SIGKILL soon after. Never throws and never waits: whoever wants to know looks at the leader.
 * @returns a function that kills at once what is left, for when the leader has ended
 */
export function endGroup(leader: GroupLeader): () => void {
  signalGroup(leader, 'SIGTERM');
  const timer = setTimeout(() => {
    if (!leader.hasEnded()) signalGroup(leader, 'SIGKILL');
  }, TERM_GRACE_MS);
  return () => {
    clearTimeout(timer);
    signalGroup(leader, 'SIGKILL');
  };
}

function signalGroup({ pid, foreignKill }: GroupLeader, signal: 'SIGTERM' | 'SIGKILL'): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if (systemCode(error) !== 'EPERM') return; // gone
  }
  if (!foreignKill) return;
  // the kernel is content when one of a group could be signalled
  for (const member of membersOf(pid)) {
    if (!isForeign(member)) continue;
    foreignKill(member, signal).catch(() => {}); // refused: whoever waits for the program goes on without its end
  }
}

function isForeign(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return systemCode(error) === 'EPERM';
  }
}

/** Processes of a group. Read at once: a number must not be another process's by the time it is used. */
function membersOf(group: number): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isSafeInteger(pid) && groupOf(pid) === group);
}

function groupOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // after the name in parentheses: state, parent, group
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]);
  } catch {
    return undefined; // ended between two looks
  }
}
