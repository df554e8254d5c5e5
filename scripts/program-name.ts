/** Which of its three programs the executable is: that depends on the name it was started by. */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { basename } from 'node:path';

export type Program = 'banger' | 'fcqemu' | 'bangernet';

/** Type of the entry of the auxiliary vector that points to the path given to execve (getauxval(3)). */
const AT_EXECFN = 31n;
const PATH_BYTES = 4096;

/**
 * A name decides by what it contains, because people keep versions and copies: `fcqemu`, `firecracker` (whose place
 * fcqemu takes under its name), `bangernet`, `banger`. Where argument 0 says nothing, as anybody may choose it, the path does that was
 * given to execve, and then the file's own name.
 *
 * @returns the program, and the name that it was started by
 */
export function findProgram(
  argv0: string,
  file: string,
  executed: () => string = executedPath,
): { program: Program; name: string } {
  // login(1) puts a dash in front
  const name = basename(argv0).replace(/^-/, '');
  const program = programOf(name) ?? programOf(basename(executed())) ?? programOf(basename(file)) ?? 'banger';
  return { program, name: name || program };
}

function programOf(name: string): Program | undefined {
  if (/fcqemu|firecracker/.test(name)) return 'fcqemu';
  if (name.includes('bangernet')) return 'bangernet';
  return name.includes('banger') ? 'banger' : undefined;
}

/** What was given to execve: a link is not followed in it. Empty without /proc, e.g. in a chroot. */
function executedPath(): string {
  try {
    const vector = readFileSync('/proc/self/auxv');
    for (let offset = 0; offset + 16 <= vector.length; offset += 16) {
      if (vector.readBigUInt64LE(offset) === AT_EXECFN) return textAt(vector.readBigUInt64LE(offset + 8));
    }
  } catch {
    // the other names decide
  }
  return '';
}

/** A string in this process's memory that ends with a zero. */
function textAt(address: bigint): string {
  const memory = openSync('/proc/self/mem', 'r');
  try {
    const bytes = Buffer.alloc(PATH_BYTES);
    const read = readSync(memory, bytes, { position: address });
    return bytes.toString('utf8', 0, Math.max(0, bytes.subarray(0, read).indexOf(0)));
  } finally {
    closeSync(memory);
  }
}
