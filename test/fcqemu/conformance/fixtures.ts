/** The files that recorded requests name, in a directory of their own. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { code, tinyKernel } from '../support/tiny-kernel.ts';

/** Holes of some sizes in bytes; `odd` is no whole number of sectors, `bigrd` larger than any guest here. */
const SPARSE = { d1: 1 << 20, d2: 2 << 20, odd: 1000, one: 1, pm: 2 << 20, bigrd: 600 << 20 };

/** @param texts further files by name */
export function makeFixtures(directory: string, texts: Record<string, string>, withFifo: boolean): void {
  const write = (name: string, content: string | Buffer) => writeFileSync(join(directory, name), content);
  write('k.elf', tinyKernel(code.halt(), { address: 0x1000000 }));
  write('bad.elf', 'not a kernel');
  write('elfhdr', Buffer.concat([Buffer.from('\x7fELF\x02\x01\x01', 'latin1'), Buffer.alloc(57)]));
  write('initrd', 'x'.repeat(4096));
  for (const name of ['empty', 'log', 'met']) write(name, '');
  for (const [name, bytes] of Object.entries(SPARSE)) {
    write(name, '');
    truncateSync(join(directory, name), bytes);
  }
  mkdirSync(join(directory, 'dir'));
  if (withFifo) spawnSync('mkfifo', [join(directory, 'fifo')]);
  for (const [name, text] of Object.entries(texts)) write(name, Buffer.from(text, 'latin1'));
}
