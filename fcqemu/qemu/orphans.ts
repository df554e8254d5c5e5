/**
 * A process that asks to be killed together with its parent (`PR_SET_PDEATHSIG`) asks too late when the parent is
 * gone by then. So its program is named by a path that leads through the parent: once the parent is dead, there is
 * nothing to execute.
 */
import { accessSync, constants, readFileSync, readlinkSync } from 'node:fs';
import { resolve } from 'node:path';

/**
 * @param program name or path as execvp(3) takes it
 * @returns a path that exists as long as this process does; `program` itself where such a path cannot be had
 */
export function pathThroughThisProcess(program: string, env: NodeJS.ProcessEnv): string {
  const path = findProgram(program, env.PATH);
  return path !== undefined && isSeenByChildren() ? `/proc/${process.pid}/root${path}` : program;
}

/** Absolute path; undefined when there is no such program, which whoever executes it will report. */
function findProgram(program: string, searchPath = '/usr/bin:/bin'): string | undefined {
  const candidates = program.includes('/')
    ? [program]
    : searchPath.split(':').map((directory) => `${directory}/${program}`);
  return candidates.map((path) => resolve(path)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Whether children may follow the link: not when /proc belongs to another namespace of process ids, and not when
 * this process has capabilities that they do not inherit.
 */
function isSeenByChildren(): boolean {
  try {
    if (readlinkSync('/proc/self') !== String(process.pid)) return false;
    if (process.getuid?.() === 0) return true;
    const status = readFileSync('/proc/self/status', 'latin1');
    const set = (name: string) => new RegExp(`^${name}:\\s+([0-9a-f]+)$`, 'm').exec(status)?.[1];
    return set('CapPrm') === set('CapAmb');
  } catch {
    return false;
  }
}
