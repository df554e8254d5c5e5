/** The static busybox of a bundle's initrd: the host's own may need libraries that a tiny guest does not have. */
import { readFileSync } from 'node:fs';

const HEADER_BYTES = 110;

/** @throws Error when the initrd, an uncompressed "newc" archive, has none */
export function bundleBusybox(initrd: string): Buffer {
  const archive = readFileSync(initrd);
  const aligned = (offset: number) => (offset + 3) & ~3;
  for (let at = 0; at + HEADER_BYTES <= archive.length; ) {
    const header = archive.toString('latin1', at, at + HEADER_BYTES);
    if (!header.startsWith('070701')) throw new Error(`${initrd}: no archive member at byte ${at}`);
    const field = (index: number) => Number.parseInt(header.slice(6 + 8 * index, 14 + 8 * index), 16);
    const [bytes, nameBytes] = [field(6), field(11)];
    const content = aligned(at + HEADER_BYTES + nameBytes);
    const name = archive.toString('latin1', at + HEADER_BYTES, at + HEADER_BYTES + nameBytes - 1);
    if (name === 'bin/busybox') return archive.subarray(content, content + bytes);
    if (name === 'TRAILER!!!') break;
    at = aligned(content + bytes);
  }
  throw new Error(`${initrd} has no bin/busybox`);
}
