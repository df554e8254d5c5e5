/** Disks as clouds have them, made of files by the programs of this machine. */
import { execFileSync } from 'node:child_process';
import { open, readFile, truncate } from 'node:fs/promises';

const MIB = 1024 * 1024;

export interface SamplePartition {
  /** file whose content it gets */
  content: string;
  /** `sfdisk`'s name of its type, e.g. `L`, `U` */
  type?: string;
  name?: string;
  /** room in MiB; the content's size otherwise */
  mib?: number;
}

/** Writes a disk with these partitions, each beginning at a whole MiB. */
export async function writeDisk(
  path: string,
  label: 'gpt' | 'dos',
  partitions: readonly SamplePartition[],
): Promise<void> {
  const sizes = await Promise.all(
    partitions.map(async ({ content, mib }) => mib ?? Math.ceil((await readFile(content)).length / MIB)),
  );
  const total = sizes.reduce((sum, size) => sum + size, 3);
  await (await open(path, 'w')).close();
  await truncate(path, total * MIB);
  let at = 1;
  const lines = partitions.map(({ type, name }, index) => {
    const size = sizes[index] ?? 0;
    const line = `start=${at}MiB, size=${size}MiB, type=${type ?? 'L'}${name === undefined ? '' : `, name="${name}"`}`;
    at += size;
    return line;
  });
  const input = [`label: ${label}`, ...lines, ''].join('\n');
  execFileSync('sfdisk', ['--quiet', path], { input, stdio: ['pipe', 'ignore', 'pipe'] });
  await using file = await open(path, 'r+');
  at = 1;
  for (const [index, { content }] of partitions.entries()) {
    const bytes = await readFile(content);
    await file.write(bytes, 0, bytes.length, at * MIB);
    at += sizes[index] ?? 0;
  }
}

/** A file system with what lies in a directory, if one is given. */
export function makeExt4File(path: string, mib: number, options: { label?: string; from?: string } = {}): void {
  const { label, from } = options;
  const words = [...(label === undefined ? [] : ['-L', label]), ...(from === undefined ? [] : ['-d', from])];
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', ...words, path, `${mib}M`]);
}

export function toQcow2(raw: string, path: string, ...words: string[]): void {
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', ...words, raw, path]);
}
