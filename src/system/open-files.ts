/** Which processes have files open for writing, as far as this user may see: root sees all. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';

export interface Writer {
  pid: number;
  /** name of its program, cut to 15 bytes by the kernel */
  program: string;
  /** the one of the files that it has open */
  file: string;
}

/** Lowest bits of `flags` in /proc/PID/fdinfo: 0 is for reading alone. */
const ACCESS_MODE = 0b11;

/** Files are compared by device and inode: one may have several names. Files that do not exist are nobody's. */
export async function findWriters(files: readonly string[]): Promise<Writer[]> {
  const wanted = new Map<string, string>();
  for (const file of files) {
    const found = await stat(file).catch(() => undefined);
    if (found) wanted.set(`${found.dev}:${found.ino}`, file);
  }
  if (wanted.size === 0) return [];
  const writers: Writer[] = [];
  for (const entry of await readdir('/proc')) {
    const pid = Number(entry);
    if (!Number.isSafeInteger(pid) || pid === process.pid) continue;
    for (const file of new Set(writtenBy(pid, wanted))) writers.push({ pid, program: programOf(pid), file });
  }
  return writers;
}

function writtenBy(pid: number, wanted: ReadonlyMap<string, string>): string[] {
  return quietly(() => readdirSync(`/proc/${pid}/fd`), []).flatMap((fd) => {
    const found = quietly(() => statSync(`/proc/${pid}/fd/${fd}`, { throwIfNoEntry: false }), undefined);
    const file = found?.isFile() ? wanted.get(`${found.dev}:${found.ino}`) : undefined;
    if (file === undefined) return [];
    const info = quietly(() => readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'), '');
    const flags = Number.parseInt(/^flags:\s+(\d+)$/m.exec(info)?.[1] ?? '0', 8);
    return (flags & ACCESS_MODE) === 0 ? [] : [file];
  });
}

function programOf(pid: number): string {
  return quietly(() => readFileSync(`/proc/${pid}/comm`, 'utf8').trim(), '?');
}

/** Processes end while they are looked at, and others' are not for everybody to see. */
function quietly<T>(look: () => T, otherwise: T): T {
  try {
    return look();
  } catch {
    return otherwise;
  }
}
